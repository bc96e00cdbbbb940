"""Spans of audio in samples, and operations on them: clip, subtract, total length."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """The samples from `start` to `end` (exclusive)."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Number of samples."""
        return self.end - self.start

    def moved(self, samples: int) -> "Span":
        """Return the span shifted by a number of samples."""
        return Span(self.start + samples, self.end + samples)


def clip_spans(spans: Iterable[Span], within: Span) -> tuple[Span, ...]:
    """Return the parts of `spans` that lie within another span. Spans outside of it are dropped."""
    cut = (Span(max(span.start, within.start), min(span.end, within.end)) for span in spans)
    return tuple(span for span in cut if span.length > 0)


def subtract_spans(spans: Iterable[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """Return the parts of `spans` that none of `others` covers. `spans` are in order; `others` may overlap."""
    uncovered: list[Span] = []
    ordered = sorted(others)
    first = 0
    for span in spans:
        start = span.start
        while first < len(ordered) and ordered[first].end <= start:
            first += 1
        for other in ordered[first:]:
            if other.start >= span.end:
                break
            if other.start > start:
                uncovered.append(Span(start, other.start))
            start = max(start, other.end)
        if start < span.end:
            uncovered.append(Span(start, span.end))
    return tuple(uncovered)


def total_length(spans: Iterable[Span]) -> int:
    """Return the number of samples in spans that do not overlap."""
    return sum(span.length for span in spans)
