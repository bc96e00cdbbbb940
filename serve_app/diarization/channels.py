"""Diarization of recordings with one channel per speaker."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.vad import FRAME_SAMPLES, SpeechDetector, SpeechSegment, SpeechSegmenter
from serve_app.settings import VadSettings

_CHUNK_SAMPLES = 256 * FRAME_SAMPLES

LEAST_THRESHOLD = 0.25
"""The minimum VAD threshold here. A lower one suits Whisper, but would extend turns into silence."""


def channel_name(number: int) -> str:
    """Return the speaker label of a channel; channels count from 0."""
    return f"CHANNEL_{number}"


def detect_speech(
    pcm: NDArray[np.int16], vad: VadSettings, heartbeat: Callable[[], None] = lambda: None
) -> list[SpeechSegment]:
    """Return the speech in audio of shape (samples,), in samples; `heartbeat` is called every few seconds of audio."""
    stricter = vad.model_copy(update={"threshold": max(vad.threshold, LEAST_THRESHOLD)})
    detector, segmenter = SpeechDetector(), SpeechSegmenter(stricter, max_frames=-(-len(pcm) // FRAME_SAMPLES) + 1)
    found: list[SpeechSegment] = []
    for start in range(0, len(pcm), _CHUNK_SAMPLES):
        heartbeat()
        chunk = pcm[start : start + _CHUNK_SAMPLES]
        found += segmenter.feed(detector(np.pad(chunk, (0, -len(chunk) % FRAME_SAMPLES))))
    found += segmenter.finish()
    return [SpeechSegment(start * FRAME_SAMPLES, min(end * FRAME_SAMPLES, len(pcm))) for start, end in found]
