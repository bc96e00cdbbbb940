"""Recordings of conversations, each with its turns in an RTTM file of the same name beside it."""

import random
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from testing.recordings import decode_recording

REAL = Path(__file__).parents[3] / "shared" / "data" / "conversations"
"""The expected location of real conversations."""


@dataclass(frozen=True)
class SpokenTurn:
    """A turn of a reference, in seconds."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True)
class Conversation:
    """A recording and who really spoke when."""

    path: Path
    turns: tuple[SpokenTurn, ...]
    seconds: float

    @property
    def speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})

    @property
    def group(self) -> str:
        """The name without its number: recordings of one kind."""
        return self.path.stem.rstrip("0123456789")


def read_conversations(folder: Path, only: Sequence[str] = ()) -> list[Conversation]:
    """Read a folder; `only` are beginnings of names. Raises FileNotFoundError if it has no recordings."""
    references = [path for path in sorted(folder.glob("*.rttm")) if not only or path.stem.startswith(tuple(only))]
    if not references:
        raise FileNotFoundError(f"{folder} has no recordings with turns (*.rttm)")
    return [_read_conversation(reference) for reference in references]


def join_conversations(conversations: Sequence[Conversation], minutes: float, path: Path) -> Conversation:
    """Write conversations one after the other, in random orders, until they last so long."""
    rng = random.Random(1)  # noqa: S311 (not for security)
    joined: list[NDArray[np.int16]] = []
    turns: list[SpokenTurn] = []
    seconds = 0.0
    while seconds < 60 * minutes:
        for one in rng.sample(conversations, len(conversations)):
            joined.append(decode_recording(one.path))
            turns += [SpokenTurn(turn.start + seconds, turn.end + seconds, turn.speaker) for turn in one.turns]
            seconds += one.seconds
    write_wav(path, np.concatenate(joined))
    return Conversation(path, tuple(turns), seconds)


def write_wav(path: Path, pcm: NDArray[np.int16]) -> None:
    """Write 16 kHz mono audio."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(pcm.tobytes())


def _read_conversation(reference: Path) -> Conversation:
    (path,) = (path for path in reference.parent.glob(f"{reference.stem}.*") if path != reference)
    turns = []
    for line in reference.read_text(encoding="utf-8").splitlines():
        _, _, _, start, seconds, _, _, speaker, *_ = line.split()
        turns.append(SpokenTurn(float(start), float(start) + float(seconds), speaker))
    return Conversation(path, tuple(turns), len(decode_recording(path)) / SAMPLE_RATE)
