"""A small dataset of clips with artificial spectrograms: composing needs no synthesiser."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from testing import noise
from training.whisper_nano import dataset
from training.whisper_nano.digits import LANGUAGES, random_digits


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> dataset.SpeechDataset:
    """Return twenty clips a language: words of 20 frames, 10 apart; a word's frames are loud, the others silent."""
    rng = random.Random(1)
    mels, clips, first = [], [], 0
    for language in LANGUAGES:
        for index in range(20):
            digits = random_digits(rng, reserved=False)
            mel = np.full((30 * len(digits) + 10, 80), -10, np.float16)
            words = tuple((10.0 + 30 * place, 30.0 + 30 * place) for place in range(len(digits)))
            for start, end in words:
                mel[int(start) : int(end)] = -2
            mels.append(mel)
            clips.append(dataset.ClipEntry(language, f"voice{index}", digits, words, first, len(mel)))
            first += len(mel)
    sounds = np.random.default_rng(1)
    noises = {kind: dataset.mel_power(noise.make(sounds, kind, 31 * 16000)) for kind in ("white", "hum50")}
    folder: Path = tmp_path_factory.mktemp("bank")
    dataset.write(folder, mels, clips, noises)
    return dataset.SpeechDataset(folder)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, on which small steps are fastest, especially on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
