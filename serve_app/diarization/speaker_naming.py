"""Labels of speakers: names of known speakers, numbers of others. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from serve_app.diarization.protocol import Embedding
from serve_app.schemas.transcript import Turn


class Match(NamedTuple):
    """The name of a speaker; for a known speaker also the similarity to the reference clip."""

    name: str
    similarity: float | None = None


def match_speakers(
    embeddings: Mapping[str, Embedding], known: Mapping[str, Embedding], least: float
) -> dict[str, Match]:
    """Match speakers to known speakers one to one, by cosine similarity of at least `least`.

    An embedding with NaN (of too little speech) matches nobody.
    """
    if not embeddings or not known:
        return {}
    similarities = np.nan_to_num(_unit_vectors(embeddings) @ _unit_vectors(known).T, nan=-1.0)
    speakers, names = list(embeddings), list(known)
    # Similarities below the limit count as 0: two sufficient matches are better than one closer match.
    pairs = zip(*linear_sum_assignment(np.where(similarities < least, 0.0, similarities), maximize=True), strict=True)
    return {
        speakers[row]: Match(names[column], round(float(similarities[row, column]), 3))
        for row, column in pairs
        if similarities[row, column] >= least
    }


def relabelled(turns: Sequence[Turn], matches: Mapping[str, Match]) -> tuple[Turn, ...]:
    """Return the turns ordered by start; speakers get these names, the others `SPEAKER_00`, `SPEAKER_01`, …."""
    turns = sorted(turns, key=lambda turn: (turn.start, turn.end))
    unknown = [speaker for speaker in dict.fromkeys(turn.speaker for turn in turns) if speaker not in matches]
    matches = {**{speaker: Match(f"SPEAKER_{number:02d}") for number, speaker in enumerate(unknown)}, **matches}
    return tuple(
        turn.model_copy(update={"speaker": matches[turn.speaker].name, "similarity": matches[turn.speaker].similarity})
        for turn in turns
    )


def _unit_vectors(embeddings: Mapping[str, Embedding]) -> NDArray[np.float64]:
    stacked = np.stack([voice.astype(np.float64) for voice in embeddings.values()])
    with np.errstate(divide="ignore", invalid="ignore"):
        units: NDArray[np.float64] = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return units
