"""Labels of speakers: names of known speakers, numbers of others. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from serve_app.schemas.transcript import Turn

Embedding = NDArray[np.float32]
"""A speaker embedding of shape (dimension,)."""


def matched(voices: Mapping[str, Embedding], known: Mapping[str, Embedding], least: float) -> dict[str, str]:
    """Match speakers to known speakers one to one, by cosine similarity of at least `least`.

    A voice that is no number (of too little speech) is like nobody's.
    """
    if not voices or not known:
        return {}
    alike = np.nan_to_num(_units(voices) @ _units(known).T, nan=-1.0)
    speakers, names = list(voices), list(known)
    # Those below the limit do not count at all: two close matches are better than one that is closer.
    pairs = zip(*linear_sum_assignment(np.where(alike < least, 0.0, alike), maximize=True), strict=True)
    return {speakers[row]: names[column] for row, column in pairs if alike[row, column] >= least}


def relabelled(turns: Sequence[Turn], names: Mapping[str, str]) -> tuple[Turn, ...]:
    """The turns by their starts, their speakers by these names, and as `SPEAKER_00`, `SPEAKER_01`, … who has none."""
    turns = sorted(turns, key=lambda turn: (turn.start, turn.end))
    nameless = [speaker for speaker in dict.fromkeys(turn.speaker for turn in turns) if speaker not in names]
    names = {**{speaker: f"SPEAKER_{number:02d}" for number, speaker in enumerate(nameless)}, **names}
    return tuple(turn.model_copy(update={"speaker": names[turn.speaker]}) for turn in turns)


def _units(voices: Mapping[str, Embedding]) -> NDArray[np.float64]:
    stacked = np.stack([voice.astype(np.float64) for voice in voices.values()])
    with np.errstate(divide="ignore", invalid="ignore"):
        units: NDArray[np.float64] = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return units
