"""What the jobs transcribe: the recordings of tests/data as they are, and each several times in a row."""

import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings

SAID = {
    "en.mp3": "three one four one five nine",
    "de.opus": "zwei sieben eins acht zwei acht",
    "fr.flac": "un quatre un quatre deux un",
    "es.wav": "uno siete tres dos cero cinco",
}
"""The words of tests/data, as its README lists them."""

COPIES = (1, 4, 12)
"""Lengths of about 4 s, 15 s (one block) and 45 s (two)."""

_DATA = Path(__file__).parent.parent / "tests/data"


@dataclass(frozen=True)
class Recording:
    """A file to transcribe, and what is said in it, once or more often."""

    name: str
    audio: bytes
    said: str


def recordings() -> list[Recording]:
    """Every recording in every length."""
    return [_recording(name, copies) for copies in COPIES for name in SAID]


def _recording(name: str, copies: int) -> Recording:
    path = _DATA / name
    audio = path.read_bytes() if copies == 1 else _repeated(path, copies)
    return Recording(f"{copies} × {name}", audio, SAID[name])


def _repeated(path: Path, copies: int) -> bytes:
    pcm = np.concatenate(list(AudioDecoder(path, LimitSettings())))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(np.tile(pcm, copies).astype("<i2").tobytes())
    return file.getvalue()
