"""An engine, and a record of what it encodes."""

from collections.abc import Iterator

import pytest
import torch

from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.model.whisper_model import WhisperModel


@pytest.fixture
def engine(nano: WhisperModel) -> Iterator[Engine]:
    engine = Engine(nano)
    yield engine
    engine.close()


@pytest.fixture
def encoder_batches(nano: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of windows in each call of the encoder."""
    calls: list[int] = []
    encode = nano.encode

    def counted(features: torch.Tensor) -> torch.Tensor:
        calls.append(len(features))
        return encode(features)

    monkeypatch.setattr(nano, "encode", counted)
    return calls
