"""Loudness of speakers."""

import numpy as np
import pytest

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.loudness import with_loudness
from serve_app.schemas.transcript import Turn


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(start=start, end=end, speaker=speaker)


def test_level_is_measured_where_one_speaker_is_alone() -> None:
    amplitude = np.repeat([0.5, 1.0, 0.05], SAMPLE_RATE)  # one, both, the other
    pcm = (amplitude * 32767 * np.where(np.arange(len(amplitude)) % 2, 1, -1)).astype(np.int16)
    turns = with_loudness([turn(0, 2, "A"), turn(1, 3, "B"), turn(1.2, 1.5, "C")], pcm)
    assert [each.level for each in turns] == [pytest.approx(-6.0, abs=0.1), pytest.approx(-26.0, abs=0.1), None]
    assert [(each.start, each.end, each.speaker) for each in turns] == [(0, 2, "A"), (1, 3, "B"), (1.2, 1.5, "C")]


@pytest.mark.parametrize("samples", [0, 100, SAMPLE_RATE])
def test_no_level_in_silence(samples: int) -> None:
    assert with_loudness([turn(0, 9, "A")], np.zeros(samples, np.int16))[0].level is None
    assert with_loudness([], np.zeros(samples, np.int16)) == ()
