"""The short recordings of spoken digits in tests/data."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings

FOLDER = Path(__file__).parents[1] / "tests" / "data"

TEXTS = {
    "en.mp3": "three one four one five nine",
    "de.opus": "zwei sieben eins acht zwei acht",
    "fr.flac": "un quatre un quatre deux un",
    "es.wav": "uno siete tres dos cero cinco",
}
"""The words of each recording by file name, as the README of the folder lists them."""


def recording_paths() -> list[Path]:
    """Return the paths of all recordings, sorted by name."""
    return sorted(FOLDER / name for name in TEXTS)


def decode_recording(path: Path) -> NDArray[np.int16]:
    """Decode a whole file to 16 kHz mono, with the service's decoder."""
    return np.concatenate(list(AudioDecoder(path, LimitSettings())))
