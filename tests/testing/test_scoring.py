"""Word error rates and utterance boundaries."""

import pytest

from testing.scoring import match_boundaries, normalise, word_error_rate


def test_normalise() -> None:
    assert normalise(" Fünf,  acht! ") == "fünf acht"


def test_word_error_rate_counts_words_of_all_texts() -> None:
    assert word_error_rate([("one two three", "One, two three."), ("four", "five")]) == pytest.approx(0.25)
    assert word_error_rate([("", "")]) == 0


def test_boundaries_are_starts_then_ends() -> None:
    assert match_boundaries([(1, 2), (3, 4)], [(1.2, 2.4), (3, 4.3)]) == [True, True, False, True]
    assert match_boundaries([(1, 2)], [(2, 1)]) == [False, False], "a start is no end"
