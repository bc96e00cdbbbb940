"""Sounds without speech: their levels and lengths, and that they are reproducible."""

import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from serve_app.audio import SAMPLE_RATE
from testing.non_speech import LENGTHS_S, Sound, non_speech, write

pytestmark = pytest.mark.slow  # to make the sounds


@pytest.fixture(scope="module")
def sounds() -> list[Sound]:
    return list(non_speech())


def level(sound: Sound) -> float:
    """Return the root mean square in dB of full scale."""
    return float(20 * np.log10(np.sqrt(np.mean(np.square(sound.pcm / 32768)))))


def test_lengths_of_all_sounds(sounds: list[Sound]) -> None:
    names = [sound.name.rsplit(",", 1)[0] for sound in sounds]
    assert len({sound.name for sound in sounds}) == len(sounds) == 2 * len(set(names))
    assert {len(sound.pcm) / SAMPLE_RATE for sound in sounds} == set(LENGTHS_S)


def test_levels_are_those_in_the_names(sounds: list[Sound]) -> None:
    by_name = {sound.name: sound for sound in sounds}
    assert not by_name["silence, 10 s"].pcm.any()
    for decibels in (-50, -30, -15):
        assert level(by_name[f"pink noise {decibels} dB, 35 s"]) == pytest.approx(decibels, abs=0.5)
    levels = [level(by_name[f"white noise {decibels} dB, 10 s"]) for decibels in (-50, -30, -15)]
    assert all(quiet < loud - 10 for quiet, loud in pairwise(levels))


def test_sounds_have_no_gaps(sounds: list[Sound]) -> None:
    for sound in sounds:
        if not sound.name.startswith("silence"):
            assert all(part.any() for part in np.array_split(sound.pcm, 4)), sound.name


def test_sounds_are_reproducible(sounds: list[Sound]) -> None:
    for one, other in zip(sounds, non_speech(), strict=True):
        assert np.array_equal(one.pcm, other.pcm), one.name


def test_files_have_the_samples(sounds: list[Sound], tmp_path: Path) -> None:
    paths = write(tmp_path)
    assert [path.stem for path in paths] == [sound.name for sound in sounds]
    with wave.open(str(paths[-1])) as file:
        assert (file.getframerate(), file.getnchannels()) == (SAMPLE_RATE, 1)
        assert np.array_equal(np.frombuffer(file.readframes(file.getnframes()), np.int16), sounds[-1].pcm)
