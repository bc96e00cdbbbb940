from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.schemas.transcript import Word
from serve_app.whisper.timing.word_bounds import MARGIN_S, MAX_MEDIAN_S, MIN_WORD_S, PAUSE_S, Speech, bound_words


def word(start: float, end: float, text: str = " one") -> Word:
    return Word(start=start, end=end, text=text, tokens=(1,), probability=0.9)


def times(words: tuple[Word, ...]) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in words]


@st.composite
def time_spans(draw: st.DrawFn, least_ms: int) -> list[tuple[float, float]]:
    """Ordered spans in seconds, in whole milliseconds; adjacent spans may touch."""
    steps = draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(least_ms, 3000)), max_size=12))
    edges = [edge / 1000 for edge in accumulate(step for pair in steps for step in pair)]
    return list(zip(edges[::2], edges[1::2], strict=True))


WORDS = time_spans(0).map(lambda found: [word(*times) for times in found])


@given(WORDS, time_spans(1))
def test_words_stay_in_order_and_never_become_empty(words: list[Word], speech: list[tuple[float, float]]) -> None:
    bounded = bound_words(words, speech)
    assert [one.text for one in bounded] == [one.text for one in words]
    for before, after in zip(words, bounded, strict=True):
        assert before.start <= after.start <= after.end
        assert after.end - after.start >= min(before.end - before.start, MIN_WORD_S) - 0.0011
    assert all(left.end <= right.start for left, right in pairwise(bounded))
    assert not words or bounded[-1].end <= words[-1].end


@given(WORDS, time_spans(1))
def test_a_word_ends_with_its_speech(words: list[Word], speech: list[tuple[float, float]]) -> None:
    bounded = bound_words(words, speech)
    for before, after in zip(words, bounded, strict=True):
        if after.end != before.end:
            in_silence = all(
                before.end <= start - MARGIN_S + MIN_WORD_S or before.start >= end + MARGIN_S - MIN_WORD_S
                for start, end in speech
            )
            edges = [end + margin for _, end in speech for margin in (0, MARGIN_S)]
            assert in_silence or any(after.end == pytest.approx(edge, abs=0.0011) for edge in edges)
    for pause_start, pause_end in zip((end for _, end in speech), (start for start, _ in speech[1:]), strict=False):
        if pause_end - pause_start > PAUSE_S:
            within = (max(0.0, min(one.end, pause_end) - max(one.start, pause_start)) for one in bounded)
            longest = 2 * MAX_MEDIAN_S
            assert all(seconds <= max(2 * MARGIN_S, longest) + 0.0011 for seconds in within)


@given(WORDS)
def test_without_speech_words_are_unchanged(words: list[Word]) -> None:
    assert bound_words(words, []) == tuple(words)


@pytest.mark.parametrize(
    ("words", "speech", "expected"),
    [
        # A pause after the word, before it, and in the midst of it.
        ([(1.0, 5.0), (5.0, 5.4)], [(0.5, 1.4), (5.1, 6.0)], [(1.0, 1.5), (5.0, 5.4)]),
        ([(1.0, 1.4), (1.4, 5.4)], [(0.5, 1.3), (5.0, 6.0)], [(1.0, 1.4), (4.9, 5.4)]),
        ([(1.0, 5.4)], [(0.0, 1.2), (5.0, 6.0)], [(4.9, 5.4)]),
        # The speech before the pause is the word's before, which attention ended too early.
        ([(1.0, 1.4), (1.4, 5.2), (5.2, 5.6)], [(0.5, 1.7), (5.0, 6.0)], [(1.0, 1.7), (4.9, 5.2), (5.2, 5.6)]),
        # The segment's end is the start of what comes next.
        ([(1.0, 1.4), (1.4, 5.1)], [(0.5, 1.7), (5.0, 6.0)], [(1.0, 1.4), (1.4, 1.8)]),
        ([(1.0, 1.4), (1.4, 5.1), (5.1, 5.2)], [(0.5, 1.7), (5.0, 6.0)], [(1.0, 1.7), (4.9, 5.1), (5.1, 5.2)]),
        # A short gap is no pause.
        ([(1.0, 2.0)], [(1.0, 1.4), (1.6, 2.0)], [(1.0, 2.0)]),
        # In silence: twice the median, beside the nearer speech.
        ([(0.0, 0.4), (0.4, 0.8), (1.0, 4.0)], [(0.0, 0.8), (9.0, 9.5)], [(0.0, 0.4), (0.4, 0.8), (1.0, 1.8)]),
        ([(0.0, 0.4), (0.4, 0.8), (5.0, 8.0)], [(0.0, 0.8), (8.2, 9.5)], [(0.0, 0.4), (0.4, 0.8), (7.2, 8.0)]),
    ],
)
def test_no_word_contains_a_pause(
    words: list[tuple[float, float]], speech: Speech, expected: list[tuple[float, float]]
) -> None:
    bounded = bound_words([word(*times) for times in words], speech)
    assert times(bounded) == [pytest.approx(pair) for pair in expected]
