"""Windows of speech and noise, and their encoder states."""

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.whisper.model.whisper_model import WhisperModel
from tests.whisper.decoding.runs import Window


@pytest.fixture(scope="session")
def sounds(windows: dict[str, Window]) -> list[Window]:
    """Speech, two languages in one window, a full window, noise, and silence."""
    en, de, fr, es = windows.values()
    noise = (np.random.default_rng(7).normal(size=4 * 16_000) * 900).astype(np.int16)
    full = np.concatenate([en, es, de, fr, es, en, fr, de, de])[: 30 * 16_000]
    return [en, de, fr, es, np.concatenate([en, de]), full, noise, np.zeros(2 * 16_000, np.int16)]


@pytest.fixture(scope="session")
def nano_states(nano: WhisperModel, sounds: list[Window]) -> Tensor:
    """Encoder states of `sounds`, each encoded alone."""
    return torch.cat([nano.encode(nano.features([sound])) for sound in sounds])


@pytest.fixture(scope="session")
def english_states(english_only: WhisperModel, noises: list[Window]) -> Tensor:
    return torch.cat([english_only.encode(english_only.features([noise])) for noise in noises[:8]])
