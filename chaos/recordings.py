"""The recordings that the jobs transcribe: those of tests/data, and each of them repeated."""

import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve_app.audio import SAMPLE_RATE
from testing.recordings import FOLDER, TEXTS, decode_recording

COPIES = (1, 4, 12)
"""Lengths of about 4 s, 15 s (one block) and 45 s (two blocks)."""


@dataclass(frozen=True)
class Recording:
    """An audio file, and the text that its transcript contains at least once."""

    name: str
    audio: bytes
    text: str


def recordings() -> list[Recording]:
    """Return every recording in every length."""
    return [_recording(name, copies) for copies in COPIES for name in TEXTS]


def _recording(name: str, copies: int) -> Recording:
    path = FOLDER / name
    audio = path.read_bytes() if copies == 1 else _repeated(path, copies)
    return Recording(f"{copies} × {name}", audio, TEXTS[name])


def _repeated(path: Path, copies: int) -> bytes:
    pcm = decode_recording(path)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(np.tile(pcm, copies).astype("<i2").tobytes())
    return file.getvalue()
