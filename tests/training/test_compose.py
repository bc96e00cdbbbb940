"""Composed windows: words in order, in segments separated by pauses."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.whisper_nano.compose import Composer, Shape, Word, segments
from training.whisper_nano.dataset import SpeechDataset

SHAPES = st.builds(
    lambda frames, share, most, hardness: Shape(frames, max(100, int(frames * share)), most, hardness),
    st.sampled_from([200, 600, 1200, 3000]),
    st.floats(0.1, 1),
    st.sampled_from([1, 2, 99]),
    st.floats(0.3, 0.8),
)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), shape=SHAPES)
def test_invariants(small_dataset: SpeechDataset, seed: int, shape: Shape) -> None:
    window = Composer(small_dataset, seed).window(shape)
    assert window.features.shape == (80, shape.frames)
    assert window.features.dtype == np.float32
    assert np.isfinite(window.features).all()
    words = window.words
    assert all(0 <= word.start < word.end <= shape.sound for word in words)
    assert all(left.end <= right.start for left, right in pairwise(words))
    for segment in window.segments:
        assert segment
        assert all(right.start - left.end <= 50 for left, right in pairwise(segment))
    assert all(right[0].start - left[-1].end > 50 for left, right in pairwise(window.segments))


def test_same_seed_same_window(small_dataset: SpeechDataset) -> None:
    shape = Shape(1200, 900, 99, 0.8)
    first, again, other = (Composer(small_dataset, seed).window(shape) for seed in (5, 5, 6))
    assert first.segments == again.segments
    assert np.array_equal(first.features, again.features)
    assert not np.array_equal(first.features, other.features)


def test_word_times_match_the_sound(small_dataset: SpeechDataset) -> None:
    """The loud frames of a window are those of its words, except about two in a hundred."""
    agreement = []
    for seed in range(60):
        window = Composer(small_dataset, seed).window(Shape(800, 800, 99, 0.0))
        if window.words:
            in_a_word = np.zeros(800, bool)
            for word in window.words:
                in_a_word[round(word.start) : round(word.end)] = True
            energy = window.features.mean(0)
            agreement.append(np.mean(in_a_word == (energy > (energy.max() + energy.min()) / 2)))
    assert np.median(agreement) > 0.97


def test_some_windows_are_silent(small_dataset: SpeechDataset) -> None:
    silent = [not Composer(small_dataset, seed).window(Shape(400, 400, 99, 0.8)).words for seed in range(300)]
    assert 0.02 < np.mean(silent) < 0.2


@pytest.mark.parametrize(("pause", "count"), [(50.0, 1), (50.5, 2)])
def test_long_pause_separates_segments(pause: float, count: int) -> None:
    assert len(segments([Word(1, 0, 20), Word(2, 20 + pause, 60 + pause)])) == count


def test_no_words_no_segments() -> None:
    assert segments([]) == ()
