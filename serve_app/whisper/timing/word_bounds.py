"""Words' times bounded by detected speech: attention hands a pause to the word before or after it. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from serve_app.schemas.transcript import Word

MARGIN_S = 0.1
"""Speech goes on so long before and after what was detected: quiet consonants lie there."""

PAUSE_S = 0.3
"""A shorter gap in speech is no pause: a long word may have one."""

REACHED_S, REACHED_BY_LAST_S = 0.04, 0.15
"""A word that shares so much with speech after a pause belongs there. The last word of a segment must share more: its
end is a timestamp that the model wrote, often that of the next segment's start."""

LEAST_S = 0.02
"""Speech that shares less with a word, one of Whisper's positions, is not the word's."""

MAX_MEDIAN_S = 0.7
"""openai-whisper's bound on the median duration of a word; a word is truncated to twice the median."""

Speech = Sequence[tuple[float, float]]
"""Stretches of speech in seconds, start and end: in order, without overlaps."""


def bound_words(words: Sequence[Word], speech: Speech) -> tuple[Word, ...]:
    """The words of a segment, each clipped to the one stretch of speech it belongs to.

    Attention gives words ends that are too early rather than too late, and a word starts where the one before ends:
    a word that a pause falls into belongs after the pause, if it reaches speech there, and the speech it loses before
    the pause is given to the word before. A word that shares no time with speech is truncated to twice the words'
    median duration, on the side away from the nearest speech.

    `words`, in order, and `speech` count from the same moment. Order is kept, no two words overlap, all lie between
    the start of the first and the end of the last, and none becomes shorter than 20 ms unless it was. Without any
    `speech` nothing is known, and the words stay as they are.
    """
    if not words or not speech:
        return tuple(words)
    stretches = _stretches(speech)
    starts, ends = zip(*stretches, strict=True)
    longest = 2 * min(median([word.end - word.start for word in words if word.end > word.start] or [0.0]), MAX_MEDIAN_S)
    times: list[tuple[float, float]] = []
    for word in words:
        # Those the word may share time with, and one more on each side.
        first, last = bisect_right(ends, word.start - MARGIN_S), bisect_right(starts, word.end + MARGIN_S)
        around = stretches[max(0, first - 1) : last + 1]
        reached = REACHED_BY_LAST_S if word is words[-1] else REACHED_S
        start, end = _bounds(word, around, reached) or _truncated(word, around, longest)
        if times and times[-1][1] == word.start < start:
            lost = [until for begin, until in around if begin < word.start < until < start]
            times[-1] = (times[-1][0], max(times[-1][1], *lost, word.start))
        times.append((start, end))
    return tuple(
        word if (start, end) == (word.start, word.end) else word.model_copy(update={"start": start, "end": end})
        for word, (start, end) in zip(words, times, strict=True)
    )


def _stretches(speech: Speech) -> list[tuple[float, float]]:
    """The stretches that pauses divide."""
    stretches = [speech[0]]
    for before, after in pairwise(speech):
        if after[0] - before[1] < PAUSE_S:
            stretches[-1] = (stretches[-1][0], after[1])
        else:
            stretches.append(after)
    return stretches


def _bounds(word: Word, stretches: Speech, reached: float) -> tuple[float, float] | None:
    """The part of a word that is in the last stretch it reaches, or else in the one it shares most with."""
    shared: list[tuple[float, float]] = []
    own: tuple[float, float] | None = None
    for start, end in stretches:
        if start - MARGIN_S >= word.end:
            break
        piece = (max(word.start, round(start - MARGIN_S, 3)), min(word.end, round(end + MARGIN_S, 3)))
        if piece[1] - piece[0] >= LEAST_S:
            shared.append(piece)
            if min(word.end, end) - max(word.start, start) >= reached:
                own = piece
    return own or max(shared, key=lambda piece: piece[1] - piece[0], default=None)


def _truncated(word: Word, stretches: Speech, longest: float) -> tuple[float, float]:
    """A word in silence, of the length of `longest` at most."""
    length = min(word.end - word.start, max(longest, LEAST_S))
    before = min((word.start - end for _, end in stretches if end <= word.start), default=float("inf"))
    after = min((start - word.end for start, _ in stretches if start >= word.end), default=float("inf"))
    if after < before:
        return max(word.start, round(word.end - length, 3)), word.end
    return word.start, min(word.end, round(word.start + length, 3))
