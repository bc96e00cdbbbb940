"""Stretches of sound in samples, and which parts of them others cover."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Samples from `start` up to `end`, without it."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Samples in it."""
        return self.end - self.start

    def moved(self, samples: int) -> "Span":
        """Return the span so many samples later."""
        return Span(self.start + samples, self.end + samples)


def clip(spans: Iterable[Span], within: Span) -> tuple[Span, ...]:
    """Return the parts of spans that lie within another; those that do not touch it are left out."""
    cut = (Span(max(span.start, within.start), min(span.end, within.end)) for span in spans)
    return tuple(span for span in cut if span.length > 0)


def subtract(spans: Iterable[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """Return the parts of `spans`, which are in order, that no other span covers. `others` may overlap."""
    left: list[Span] = []
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
                left.append(Span(start, other.start))
            start = max(start, other.end)
        if start < span.end:
            left.append(Span(start, span.end))
    return tuple(left)


def total(spans: Iterable[Span]) -> int:
    """Return the samples of spans that do not overlap."""
    return sum(span.length for span in spans)
