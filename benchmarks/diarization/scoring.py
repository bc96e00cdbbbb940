"""Scores of turns against a reference, by pyannote.metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

COLLAR = 0.5
"""In pyannote.metrics the total of both sides: a quarter of a second on each."""


class TurnLike(Protocol):
    """A turn: in seconds, with a speaker's label."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def speaker(self) -> str: ...


@dataclass(frozen=True)
class Diarized:
    """The turns that were found in a recording, and the true ones."""

    found: Sequence[TurnLike]
    true: Sequence[TurnLike]
    seconds: float

    @property
    def counts(self) -> tuple[int, int]:
        """The number of speakers found, and the true number."""
        found, true = ({turn.speaker for turn in turns} for turns in (self.found, self.true))
        return len(found), len(true)


def error_rates(results: Sequence[Diarized], collar: float = COLLAR) -> dict[str, float]:
    """Return the diarization error rate over recordings, overlaps scored, and its parts; and the Jaccard error rate."""
    rate, jaccard = DiarizationErrorRate(collar=collar), JaccardErrorRate(collar=collar)
    for result in results:
        true, found = annotation(result.true), annotation(result.found)
        for metric in (rate, jaccard):
            metric(true, found, uem=Segment(0, result.seconds))
    parts: Any = rate[:]
    return {
        "error": round(abs(rate), 4),
        **{name: round(parts[name] / parts["total"], 4) for name in ("missed detection", "false alarm", "confusion")},
        "jaccard": round(abs(jaccard), 4),
    }


def annotation(turns: Iterable[TurnLike]) -> Annotation:
    """Convert turns to pyannote's annotation."""
    result = Annotation()
    for number, turn in enumerate(turns):
        result[Segment(turn.start, turn.end), number] = turn.speaker
    return result
