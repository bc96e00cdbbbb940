"""Synthesised clips; these tests need the synthesisers."""

import random
import shutil
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from testing import noise
from training.whisper_nano.digits import is_reserved
from training.whisper_nano.espeak import espeak
from training.whisper_nano.speech import Clip, UnusableSpeechError, espeak_clip, festival_clip, flite_clip


def make_usable(make: Callable[[], Clip]) -> Clip:
    while True:
        try:
            return make()
        except UnusableSpeechError:
            continue


def check_clip(clip: Clip) -> None:
    assert len(clip.words) == len(clip.digits)
    assert clip.samples.dtype == np.float32
    assert all(0 <= start < end <= len(clip.samples) / 16000 + 0.011 for start, end in clip.words)
    assert all(left[1] <= right[0] for left, right in pairwise(clip.words))
    whole = np.sqrt((clip.samples**2).mean())
    for start, end in clip.words:
        assert np.sqrt((clip.samples[int(start * 16000) : int(end * 16000)] ** 2).mean()) > 0.05 * whole


@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
@pytest.mark.parametrize("reserved", [False, True])
def test_espeak(language: str, reserved: bool) -> None:
    try:
        espeak()
    except OSError as error:
        pytest.skip(str(error))
    clip = make_usable(lambda: espeak_clip(random.Random(3), language, reserved=reserved))
    check_clip(clip)
    assert is_reserved(clip.digits) == reserved


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite() -> None:
    rng = random.Random(3)
    check_clip(make_usable(lambda: flite_clip(rng, reserved=False)))
    assert make_usable(lambda: flite_clip(rng, reserved=True)).voice == "flite-kal16"


@pytest.mark.skipif(shutil.which("festival") is None, reason="festival is not installed")
def test_festival() -> None:
    rng = random.Random(3)
    clip = make_usable(lambda: festival_clip(rng))
    check_clip(clip)
    assert is_reserved(clip.digits)


@pytest.mark.parametrize("kind", noise.KINDS)
@pytest.mark.parametrize("count", [16_000, 33_333])
def test_noise_has_its_length_and_level(kind: str, count: int) -> None:
    samples = noise.make(np.random.default_rng(1), kind, count)
    assert samples.shape == (count,)
    assert np.sqrt(np.square(samples, dtype=np.float64).mean()) == pytest.approx(0.1, rel=1e-3)
