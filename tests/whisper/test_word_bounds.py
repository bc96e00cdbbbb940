from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.whisper.text import Word
from serve_app.whisper.word_bounds import LEAST_S, MARGIN_S, Speech, bound_words


def word(start: float, end: float, text: str = " one") -> Word:
    return Word(start=start, end=end, text=text, tokens=(1,), probability=0.9)


def times(words: tuple[Word, ...]) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in words]


@st.composite
def stretches(draw: st.DrawFn, least_ms: int) -> list[tuple[float, float]]:
    """Pieces of time in order, that may touch; milliseconds as seconds."""
    steps = draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(least_ms, 3000)), max_size=12))
    edges = [edge / 1000 for edge in accumulate(step for pair in steps for step in pair)]
    return list(zip(edges[::2], edges[1::2], strict=True))


WORDS = stretches(0).map(lambda found: [word(*times) for times in found])


@given(WORDS, stretches(1))
def test_words_only_shrink_and_never_to_nothing(words: list[Word], speech: list[tuple[float, float]]) -> None:
    bounded = bound_words(words, speech)
    assert [one.text for one in bounded] == [one.text for one in words]
    for before, after in zip(words, bounded, strict=True):
        assert before.start <= after.start <= after.end <= before.end
        assert after.end - after.start >= min(before.end - before.start, LEAST_S) - 0.0011
    assert all(left.end <= right.start for left, right in pairwise(bounded))


@given(WORDS, stretches(1))
def test_a_word_that_has_speech_lies_in_one_stretch(words: list[Word], speech: list[tuple[float, float]]) -> None:
    def widened(stretch: tuple[float, float]) -> tuple[float, float]:
        return stretch[0] - MARGIN_S, stretch[1] + MARGIN_S

    far_apart = all(right[0] - left[1] > 2 * MARGIN_S for left, right in pairwise(speech))
    for before, after in zip(words, bound_words(words, speech), strict=True):
        shared = [min(before.end, end) - max(before.start, start) for start, end in map(widened, speech)]
        if far_apart and any(seconds > LEAST_S for seconds in shared):
            assert any(start - 0.001 <= after.start and after.end <= end + 0.001 for start, end in map(widened, speech))
            assert after.end - after.start == pytest.approx(max(shared), abs=0.0011)


@given(WORDS)
def test_without_speech_nothing_is_known(words: list[Word]) -> None:
    assert bound_words(words, []) == tuple(words)


@pytest.mark.parametrize(
    ("words", "speech", "expected"),
    [
        # A pause after the word, before it, and in the midst of it.
        ([(1.0, 5.0), (5.0, 5.4)], [(0.5, 1.4), (5.1, 6.0)], [(1.0, 1.5), (5.0, 5.4)]),
        ([(1.0, 1.4), (1.4, 5.4)], [(0.5, 1.3), (5.0, 6.0)], [(1.0, 1.4), (4.9, 5.4)]),
        ([(1.0, 5.4)], [(0.0, 1.2), (5.0, 6.0)], [(4.9, 5.4)]),
        # A gap that the margins fill is no pause.
        ([(1.0, 2.0)], [(1.0, 1.4), (1.6, 2.0)], [(1.0, 2.0)]),
        # In silence: twice the median, beside the nearer speech.
        ([(0.0, 0.4), (0.4, 0.8), (1.0, 4.0)], [(0.0, 0.8), (9.0, 9.5)], [(0.0, 0.4), (0.4, 0.8), (1.0, 1.8)]),
        ([(0.0, 0.4), (0.4, 0.8), (5.0, 8.0)], [(0.0, 0.8), (8.2, 9.5)], [(0.0, 0.4), (0.4, 0.8), (7.2, 8.0)]),
    ],
)
def test_a_pause_is_in_no_word(
    words: list[tuple[float, float]], speech: Speech, expected: list[tuple[float, float]]
) -> None:
    bounded = bound_words([word(*times) for times in words], speech)
    assert times(bounded) == [pytest.approx(pair) for pair in expected]
