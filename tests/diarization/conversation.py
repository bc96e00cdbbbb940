"""A conversation, and a pipeline that detects speakers in any audio."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.diarization.pyannote_pipeline import load_pyannote
from serve_app.settings import LimitSettings

DATA = Path(__file__).parent.parent / "data"


def conversation(seconds: float) -> NDArray[np.int16]:
    """Join recordings, with some overlaps and some long silences."""
    recordings = [np.concatenate(list(AudioDecoder(path, LimitSettings()))) for path in sorted(DATA.glob("*.[!m]*"))]
    chance = np.random.default_rng(0)
    sound = np.zeros(int(seconds * SAMPLE_RATE) + max(map(len, recordings)), np.int16)
    at, number = SAMPLE_RATE, 0
    while at < seconds * SAMPLE_RATE:
        recording = recordings[number % len(recordings)]
        sound[at : at + len(recording)] += recording // 2
        at, number = at + len(recording) + int(chance.choice([-1.5, 0.3, 1.0, 14.0]) * SAMPLE_RATE), number + 1
    return sound[: int(seconds * SAMPLE_RATE)]


def interrupt_at(call: int) -> Callable[[], None]:
    """Return a heartbeat that raises InterruptedError when it is called so many times."""
    calls = count(1)

    def heartbeat() -> None:
        if next(calls) == call:
            raise InterruptedError

    return heartbeat


def restless(folder: str = "diarization-nano") -> Any:
    """Return pyannote's own pipeline with a segmentation that detects changing speakers in any audio.

    This covers every case: a chunk without speakers, with some of its speakers, with two at once.
    """
    torch.set_num_threads(1)  # small layers, which a busy machine shares badly
    pipeline = load_pyannote(folder, None)
    net = pipeline._segmentation.model.net
    noise = torch.randn(4, 160_000, generator=torch.Generator().manual_seed(0)) * 0.05
    with torch.inference_mode():
        hidden = net.hidden(net.lstm(net.trunk(net.features(noise)).transpose(1, 2))[0]).flatten(0, 1)
    with torch.no_grad():
        weight = torch.randn(net.classifier.weight.shape, generator=torch.Generator().manual_seed(1))
        weight /= hidden.std(0) + 1e-3
        net.classifier.weight.copy_(weight)
        net.classifier.bias.copy_(-(weight @ hidden.mean(0)))
    original_segmentations = pipeline.get_segmentations

    def get_segmentations(file: dict[str, Any], hook: Any = None) -> Any:
        found = original_segmentations(file, hook=hook)
        for number, chunk in enumerate(found.data):
            start = round(found.sliding_window[number].start * SAMPLE_RATE)
            sound = file["waveform"][0, start : start + 160_000]
            chunk *= np.pad(sound.abs().numpy() > 0, (0, 160_000 - len(sound))).reshape(len(chunk), -1).any(1)[:, None]
            chunk[:, number % 4] = 0
        return found

    pipeline.get_segmentations = get_segmentations
    return pipeline
