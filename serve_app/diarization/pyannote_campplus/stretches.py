"""Stretches of a recording in which one person speaks, from which speakers are recognised. Pure."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.diarization.pyannote_campplus.frames import (
    CHUNK_S,
    CHUNK_STEP_S,
    EMBEDDING_FRAMES_PER_S,
    Activity,
    segmentation_frames_in_chunk,
)

SHORTEST_S = 0.3
"""Shorter stretches are not embedded."""
_PART_S = 1.0
"""The approximate length of a stretch's parts. Each is assigned a speaker of its own: the segmentation sometimes takes
two people who speak one after the other for one.
"""
_MAX_PAUSE_S = 0.1

_SILENCE, _OVERLAP = -1, -2


class Stretch(NamedTuple):
    """A stretch in which the segmentation hears one speaker, in frames of the embedding; `end` is exclusive."""

    start: int
    end: int

    @property
    def frames(self) -> int:
        return self.end - self.start

    @property
    def seconds(self) -> float:
        return self.frames / EMBEDDING_FRAMES_PER_S

    def parts(self) -> list["Stretch"]:
        """Divide the stretch into equal parts of about 1 s."""
        count = max(1, round(self.seconds / _PART_S))
        edges = np.linspace(self.start, self.end, count + 1).astype(int).tolist()
        return [Stretch(*edge) for edge in pairwise(edges)]


def find_stretches(activity: Activity, frames: int) -> Iterator[Stretch]:
    """Yield the stretches of a recording that has this many frames of the embedding, in order.

    Each is within one chunk of the segmentation, whose speakers have no relation to those of the next: the recording is
    divided into chunks that follow each other.
    """
    length, chunks_apart = round(CHUNK_S * EMBEDDING_FRAMES_PER_S), round(CHUNK_S / CHUNK_STEP_S)
    for number, start in enumerate(range(0, frames, length)):
        end = min(start + length, frames)
        chunk = min(number * chunks_apart, len(activity) - 1)
        speaking = activity[chunk, segmentation_frames_in_chunk(chunk, start, end)]
        together = speaking.sum(1)
        speakers = np.where(together == 1, speaking.argmax(1), np.where(together == 0, _SILENCE, _OVERLAP))
        for first, last in _runs(speakers):
            stretch = Stretch(start + first, start + last)
            if stretch.seconds >= SHORTEST_S:
                yield stretch


def _runs(speakers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each run of one speaker; short pauses do not end a run."""
    most = round(_MAX_PAUSE_S * EMBEDDING_FRAMES_PER_S)
    edges = [0, *(np.flatnonzero(np.diff(speakers)) + 1).tolist(), len(speakers)]
    start, end, current = 0, 0, _SILENCE
    for first, last in pairwise(edges):
        speaker = int(speakers[first])
        if speaker == _SILENCE:
            continue
        if speaker != current or first - end > most:
            if current >= 0:
                yield start, end
            start, current = first, speaker
        end = last
    if current >= 0:
        yield start, end
