"""A small dataset whose speakers are tones: composing needs no synthesiser."""

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.audio import SAMPLE_RATE
from testing import noise
from training.diarization_nano import dataset
from training.diarization_nano.speakers import Speaker
from training.diarization_nano.speech import FRAME, Utterance

TONES = {"made0.0": 200, "made0.1": 230, "made1.0": 400, "klatt": 700, "m1": 1100}


def tone(hertz: float, frames: int) -> Utterance:
    """Return a tone with 40 silent frames in the middle."""
    samples = np.sin(2 * np.pi * hertz * np.arange(frames * FRAME) / SAMPLE_RATE) * 3000
    speech = np.ones(frames, bool)
    speech[frames // 2 - 20 : frames // 2 + 20] = False
    return Utterance((samples * speech.repeat(FRAME)).astype(np.int16), speech)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> dataset.SpeechDataset:
    spoken = [
        dataset.SpeakerUtterances(
            Speaker("espeak", timbre, "en", 50, 50, 170, 0), "train", 1.0, [tone(hertz, n) for n in (120, 300)]
        )
        for timbre, hertz in TONES.items()
    ]
    sounds = np.random.default_rng(1)
    noises = np.stack([noise.make(sounds, kind, 12 * SAMPLE_RATE) for kind in ("white", "hum50")])
    folder: Path = tmp_path_factory.mktemp("tones")
    dataset.write(folder, spoken, (noises * 8000).astype(np.int16))
    return dataset.SpeechDataset(folder, torch.device("cpu"))
