"""Loudness of speakers, by which overlapping words are assigned to the louder one. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.schemas.transcript import Turn

_FRAME = SAMPLE_RATE // 100


def with_loudness(turns: Sequence[Turn], pcm: NDArray[Any]) -> tuple[Turn, ...]:
    """Return the turns with their speakers' levels in 16 kHz audio with 16-bit values (int or float).

    A level is the mean power where only that speaker speaks, in dB of full scale; None for a speaker who never does.
    """
    frames = pcm[: len(pcm) // _FRAME * _FRAME].reshape(-1, _FRAME)
    # Without converting the array: a float copy of four hours is a gigabyte, and its squares another.
    power = np.einsum("ij,ij->i", frames, frames, dtype=np.float32, casting="same_kind") / (_FRAME * 32768.0**2)
    speaking = {turn.speaker: np.zeros(len(power), bool) for turn in turns}
    for turn in turns:
        speaking[turn.speaker][round(100 * turn.start) : round(100 * turn.end)] = True
    crowd = np.zeros(len(power), np.int32)
    for where in speaking.values():
        crowd += where
    levels = {speaker: _level(power[where & (crowd == 1)]) for speaker, where in speaking.items()}
    return tuple(turn.model_copy(update={"level": levels[turn.speaker]}) for turn in turns)


def _level(power: NDArray[np.float32]) -> float | None:
    mean = float(power.mean()) if len(power) else 0.0
    return round(10 * float(np.log10(mean)), 1) if mean > 0 else None
