"""Scores of transcripts against reference texts and times."""

from collections.abc import Sequence

import jiwer

BOUNDARY_TOLERANCE_S = 0.3


def normalise(text: str) -> str:
    """Convert a text to lower-case words with single spaces between them, without punctuation."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the word error rate over all (reference, hypothesis) pairs; 0 if the references have no words."""
    spoken = [(normalise(reference), normalise(hypothesis)) for reference, hypothesis in pairs if normalise(reference)]
    return float(jiwer.wer([reference for reference, _ in spoken], [text for _, text in spoken])) if spoken else 0.0


def match_boundaries(utterances: Sequence[tuple[float, float]], segments: Sequence[tuple[float, float]]) -> list[bool]:
    """Return whether a segment starts near each utterance's start, then whether one ends near each utterance's end.

    Near: at most BOUNDARY_TOLERANCE_S away. Times are (start, end) in seconds.
    """
    return [
        any(abs(utterance[side] - segment[side]) <= BOUNDARY_TOLERANCE_S for segment in segments)
        for side in (0, 1)
        for utterance in utterances
    ]
