"""Reference clips."""

import base64
import io
from pathlib import Path

import numpy as np
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings

DATA = Path(__file__).parent.parent / "data"


def speech(name: str = "es.wav") -> AudioSegment:
    """Return a recording of tests/data."""
    pcm = np.concatenate(list(AudioDecoder(DATA / name, LimitSettings())))
    return AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)


def clip(seconds: float, sound: AudioSegment | None = None) -> str:
    """Return `seconds` of a repeated recording as a WAV file in base64."""
    file = io.BytesIO()
    ((sound or speech()) * 20)[: round(1000 * seconds)].export(file, format="wav")
    return base64.b64encode(file.getvalue()).decode()
