"""Words' times bounded by detected speech: attention hands a pause to the word before or after it. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from statistics import median

from serve_app.whisper.text import Word

MARGIN_S = 0.1
"""Speech goes on so long before and after what was detected: quiet consonants lie there."""

LEAST_S = 0.02
"""Speech that shares less with a word, one of Whisper's positions, is not the word's."""

MAX_MEDIAN_S = 0.7
"""openai-whisper's bound on the median duration of a word; a word is truncated to twice the median."""

Speech = Sequence[tuple[float, float]]
"""Stretches of speech in seconds, start and end: in order, without overlaps."""


def bound_words(words: Sequence[Word], speech: Speech) -> tuple[Word, ...]:
    """The words, each clipped to the stretch of speech it shares most time with (the first of equals).

    A word that shares no time with speech is truncated to twice the words' median duration, on the side away from
    the nearest speech. No word starts earlier or ends later than before, so order is kept and none overlap; none
    becomes shorter than 20 ms unless it was. `words`, in order, and `speech` count from the same moment. Without any
    `speech` nothing is known, and the words stay as they are.
    """
    if not words or not speech:
        return tuple(words)
    stretches = _widened(speech)
    ends = [end for _, end in stretches]
    longest = 2 * min(median([word.end - word.start for word in words if word.end > word.start] or [0.0]), MAX_MEDIAN_S)
    return tuple(_bounded(word, stretches, bisect_right(ends, word.start), longest) for word in words)


def _widened(speech: Speech) -> list[tuple[float, float]]:
    """Stretches with their margins; those that touch then are one."""
    stretches: list[tuple[float, float]] = []
    for start, end in speech:
        start, end = start - MARGIN_S, end + MARGIN_S
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((start, end))
    return stretches


def _bounded(word: Word, stretches: Sequence[tuple[float, float]], following: int, longest: float) -> Word:
    """`following`: the first stretch that ends after the word starts."""
    start, end = word.start, word.end
    shared = [(start, start)]
    for place in range(following, len(stretches)):
        if stretches[place][0] >= end:
            break
        shared.append((max(start, stretches[place][0]), min(end, stretches[place][1])))
    bounds = max(shared, key=lambda piece: piece[1] - piece[0])
    if bounds[1] - bounds[0] < LEAST_S:
        length = min(end - start, max(longest, LEAST_S))
        before = start - stretches[following - 1][1] if following else float("inf")
        after = stretches[following][0] - end if following < len(stretches) else float("inf")
        bounds = (end - length, end) if after < before else (start, start + length)
    bounds = (max(start, round(bounds[0], 3)), min(end, round(bounds[1], 3)))
    return word if bounds == (start, end) else word.model_copy(update={"start": bounds[0], "end": bounds[1]})
