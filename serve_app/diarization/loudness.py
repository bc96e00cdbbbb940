"""Loudness of speakers: of overlapping speakers, the words belong to the louder one. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.schemas.transcript import Turn

_FRAME = SAMPLE_RATE // 100


def with_loudness(turns: Sequence[Turn], pcm: NDArray[Any]) -> tuple[Turn, ...]:
    """The turns with their speakers' levels in 16 kHz sound of 16 bits, whole numbers or not.

    A level is the mean power of where a speaker speaks alone, in dB of full scale; null for who never does.
    """
    frames = pcm[: len(pcm) // _FRAME * _FRAME].reshape(-1, _FRAME)
    # Without a copy of the sound in another type: of four hours that would be a gigabyte, and another for its squares.
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
