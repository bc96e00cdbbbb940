"""Diarization of recordings with one channel per speaker."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.vad import FRAME_SAMPLES, SpeechDetector, SpeechSegment, SpeechSegmenter
from serve_app.settings import VadSettings

_CHUNK_SAMPLES = 256 * FRAME_SAMPLES

LEAST_THRESHOLD = 0.25
"""Below it, what Whisper should hear is let through: here a turn would go on in the silence after it."""


def channel_name(number: int) -> str:
    """Return the speaker label of a channel; channels count from 0."""
    return f"CHANNEL_{number}"


def speech_of(pcm: NDArray[np.int16], vad: VadSettings, beat: Callable[[], None] = lambda: None) -> list[SpeechSegment]:
    """Return the speech in audio of shape (samples,), in samples; `beat` is called every few seconds of audio."""
    surer = vad.model_copy(update={"threshold": max(vad.threshold, LEAST_THRESHOLD)})
    detector, stretches = SpeechDetector(), SpeechSegmenter(surer, max_frames=-(-len(pcm) // FRAME_SAMPLES) + 1)
    found: list[SpeechSegment] = []
    for start in range(0, len(pcm), _CHUNK_SAMPLES):
        beat()
        chunk = pcm[start : start + _CHUNK_SAMPLES]
        found += stretches.feed(detector(np.pad(chunk, (0, -len(chunk) % FRAME_SAMPLES))))
    found += stretches.finish()
    return [SpeechSegment(start * FRAME_SAMPLES, min(end * FRAME_SAMPLES, len(pcm))) for start, end in found]
