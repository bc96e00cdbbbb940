"""Requests with diarization, and a pipeline that splits each recording into two halves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.schemas.request import DiarizationOptions
from serve_app.schemas.transcript import Turn
from tests.diarization.sounds import clip
from tests.fronts.helpers import DATA

PATH = "/v1/audio/transcriptions"
FILE = {"file": ("en.mp3", (DATA / "en.mp3").read_bytes())}


class TwoHalvesPipeline:
    """Gives the first half to the first known speaker or SPEAKER_00, and the second to SPEAKER_01."""

    def diarize(self, pcm: NDArray[np.int16], options: DiarizationOptions) -> tuple[Turn, ...]:
        first = next((speaker.name for speaker in options.known_speakers), "SPEAKER_00")
        end = len(pcm) / SAMPLE_RATE
        return Turn(start=0, end=end / 2, speaker=first), Turn(start=end / 2, end=end, speaker="SPEAKER_01")


def form(**fields: str | list[str]) -> dict[str, Any]:
    return {"files": FILE, "data": {"model": "whisper-1", **fields}}


ANN = {"known_speaker_names[]": ["Ann"], "known_speaker_references[]": [f"data:audio/wav;base64,{clip(2.5)}"]}
KNOWN = {"known_speakers": [{"name": "Ann", "reference": clip(2.5)}]}
