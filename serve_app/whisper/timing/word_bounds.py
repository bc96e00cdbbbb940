"""Clip words to detected speech: word timestamps from attention include the pauses around words. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from serve_app.schemas.transcript import Word

MARGIN_S = 0.1
"""Speech may begin this much before detected speech, and end this much after it: there are quiet consonants."""

PAUSE_S = 0.3
"""A shorter gap in speech is not a pause: it may lie within a long word."""

MIN_SHARED_S, MIN_SHARED_LAST_S = 0.04, 0.15
"""A word that overlaps speech after a pause by this much belongs there. The last word of a segment must overlap it by
more: its end is a timestamp of the model, often that of the next segment's start."""

MIN_WORD_S = 0.02
"""Minimum overlap of a word and its speech: one encoder position."""

MAX_MEDIAN_S = 0.7
"""Upper bound of the median word duration, as in openai-whisper; words are truncated to twice the median."""

Speech = Sequence[tuple[float, float]]
"""Spans of speech, `(start, end)` in seconds: in order, without overlaps."""


def bound_words(words: Sequence[Word], speech: Speech) -> tuple[Word, ...]:
    """Return the words of a segment, each clipped to the span of speech it belongs to.

    Word ends from attention are too early rather than too late, and a word starts where the previous word ends. So a
    word with a pause inside belongs after the pause, if it overlaps speech there, and the speech it loses before the
    pause is given to the previous word. A word that overlaps no speech is truncated to twice the median word duration,
    at the side farther from speech.

    The times of `words`, which are in order, and `speech` have the same origin. The result is in order without
    overlaps, between the start of the first word and the end of the last one, and no word becomes shorter than 20 ms
    unless it was. Without `speech` the words are returned unchanged.
    """
    if not words or not speech:
        return tuple(words)
    spans = _join_short_gaps(speech)
    starts, ends = zip(*spans, strict=True)
    max_length = 2 * min(
        median([word.end - word.start for word in words if word.end > word.start] or [0.0]), MAX_MEDIAN_S
    )
    times: list[tuple[float, float]] = []
    for word in words:
        # The spans that the word may overlap, and one more on each side.
        first, last = bisect_right(ends, word.start - MARGIN_S), bisect_right(starts, word.end + MARGIN_S)
        nearby = spans[max(0, first - 1) : last + 1]
        min_shared = MIN_SHARED_LAST_S if word is words[-1] else MIN_SHARED_S
        start, end = _clip_word(word, nearby, min_shared) or _truncate_word(word, nearby, max_length)
        if times and times[-1][1] == word.start < start:
            lost_ends = [until for begin, until in nearby if begin < word.start < until < start]
            times[-1] = (times[-1][0], max(times[-1][1], *lost_ends, word.start))
        times.append((start, end))
    return tuple(
        word if (start, end) == (word.start, word.end) else word.model_copy(update={"start": start, "end": end})
        for word, (start, end) in zip(words, times, strict=True)
    )


def _join_short_gaps(speech: Speech) -> list[tuple[float, float]]:
    """Return the spans of speech between pauses: shorter gaps are closed."""
    spans = [speech[0]]
    for before, after in pairwise(speech):
        if after[0] - before[1] < PAUSE_S:
            spans[-1] = (spans[-1][0], after[1])
        else:
            spans.append(after)
    return spans


def _clip_word(word: Word, spans: Speech, min_shared: float) -> tuple[float, float] | None:
    """Return the part of a word in the last span it overlaps by `min_shared`, or else in the span it overlaps most."""
    shared: list[tuple[float, float]] = []
    best: tuple[float, float] | None = None
    for start, end in spans:
        if start - MARGIN_S >= word.end:
            break
        part = (max(word.start, round(start - MARGIN_S, 3)), min(word.end, round(end + MARGIN_S, 3)))
        if part[1] - part[0] >= MIN_WORD_S:
            shared.append(part)
            if min(word.end, end) - max(word.start, start) >= min_shared:
                best = part
    return best or max(shared, key=lambda part: part[1] - part[0], default=None)


def _truncate_word(word: Word, spans: Speech, max_length: float) -> tuple[float, float]:
    """Return the times of a word in silence, truncated to `max_length` seconds."""
    length = min(word.end - word.start, max(max_length, MIN_WORD_S))
    before = min((word.start - end for _, end in spans if end <= word.start), default=float("inf"))
    after = min((start - word.end for start, _ in spans if start >= word.end), default=float("inf"))
    if after < before:
        return max(word.start, round(word.end - length, 3)), word.end
    return word.start, min(word.end, round(word.start + length, 3))
