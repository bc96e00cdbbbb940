"""Find the speakers of every frame of a recording, from the segmentation and the speakers of stretches. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.diarization.pyannote_campplus.frames import (
    CHUNK_FRAMES,
    SPEAKERS,
    Activity,
    first_frame,
    frame_time,
    segmentation_frame,
)
from serve_app.diarization.pyannote_campplus.stretches import Stretch

_MAX_PAUSE_S = 0.3
"""A turn continues after a shorter pause."""
_MIN_TURN_S = 0.1
"""Shorter turns are noise: mostly a few frames before or after another speaker's turn."""

_UNKNOWN = -1


class SpeakerTurn(NamedTuple):
    """A stretch of one speaker's speech, in seconds."""

    start: float
    end: float
    speaker: int


def find_turns(
    activity: Activity, parts: Sequence[Stretch], speakers: Sequence[int], count: int, most: int | None
) -> Iterator[SpeakerTurn]:
    """Yield the turns of each speaker. `speakers` are those of the parts, of `count` in all; `most` may speak at once.

    In every frame as many speak as the chunks around it say on average; half of a speaker counts as one. A single
    speaker is that of the part; where several speak, or no part is, they are those with most votes of chunks: each
    chunk's speakers are identified by the parts in which they speak alone. Speech of nobody of
    these is that of the nearest part's. If more speak at once than `count`, the others have the numbers that follow.
    """
    first_frames = [first_frame(chunk) for chunk in range(len(activity))]
    frames = first_frames[-1] + CHUNK_FRAMES
    labels = np.full(frames, _UNKNOWN)
    for part, speaker in zip(parts, speakers, strict=True):
        labels[segmentation_frame(part.start) : segmentation_frame(part.end)] = speaker
    voices = _count_voices(activity, first_frames, frames)
    if most is not None:
        voices = voices.clip(max=most)
    total = max(count, int(voices.max()))
    votes = np.zeros((frames, total), np.float32)
    for chunk, start in zip(activity, first_frames, strict=True):
        here = slice(start, start + CHUNK_FRAMES)
        for local, speaker in enumerate(_identify(chunk, labels[here], total)):
            if speaker != _UNKNOWN:
                votes[here, speaker] += chunk[:, local]
    speaking = _most_voted(votes, voices)
    alone = np.flatnonzero((speaking.sum(1) == 1) & (labels != _UNKNOWN))
    speaking[alone] = False
    speaking[alone, labels[alone]] = True
    lost = np.flatnonzero((voices > 0) & ~speaking.any(1))
    if len(lost):
        speaking[lost, _nearest_labels(labels, lost) if len(parts) else 0] = True
    for speaker in range(total):
        for start, end in _join(_intervals(speaking[:, speaker])):
            yield SpeakerTurn(frame_time(start), frame_time(end), speaker)


def _count_voices(activity: Activity, first_frames: Sequence[int], frames: int) -> NDArray[np.int64]:
    """Return how many speak in each frame: the mean of the chunks that contain it, rounded up from a half."""
    voices, chunks = np.zeros(frames), np.zeros(frames)
    for chunk, start in zip(activity, first_frames, strict=True):
        voices[start : start + CHUNK_FRAMES] += chunk.sum(1)
        chunks[start : start + CHUNK_FRAMES] += 1
    return np.floor(voices / np.maximum(chunks, 1) + 0.5).astype(np.int64)


def _identify(chunk: NDArray[np.bool_], labels: NDArray[np.int64], total: int) -> list[int]:
    """Return the speaker of the recording whom each speaker of a chunk is: whose parts it mostly speaks alone.

    One who is never alone is another than the others: the first of those left, who has most speech.
    """
    alone = chunk & (chunk.sum(1, keepdims=True) == 1) & (labels != _UNKNOWN)[:, None]
    frames = [np.bincount(labels[alone[:, local]], minlength=total) for local in range(SPEAKERS)]
    known = [int(found.argmax()) if found.any() else _UNKNOWN for found in frames]
    others = iter([speaker for speaker in range(total) if speaker not in known])
    return [
        next(others, _UNKNOWN) if speaker == _UNKNOWN and chunk[:, local].any() else speaker
        for local, speaker in enumerate(known)
    ]


def _nearest_labels(labels: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the speakers of the parts nearest to frames."""
    known = np.flatnonzero(labels != _UNKNOWN)
    after = np.searchsorted(known, frames).clip(1, max(1, len(known) - 1))
    before = known[after - 1]
    after = known[np.minimum(after, len(known) - 1)]
    nearest: NDArray[np.int64] = labels[np.where(frames - before <= after - frames, before, after)]
    return nearest


def _most_voted(votes: NDArray[np.float32], voices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (frames, speakers): in each frame the speakers with most votes, as many as there are voices."""
    frames, votes, speaking = np.arange(len(votes)), votes.copy(), np.zeros(votes.shape, bool)
    for rank in range(int(voices.max())):
        best = votes.argmax(1)
        chosen = (voices > rank) & (votes[frames, best] > 0)
        speaking[frames[chosen], best[chosen]] = True
        votes[frames, best] = 0
    return speaking


def _intervals(speaking: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each run of true frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speaking, [False]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _join(intervals: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield a speaker's intervals without short pauses between them; those that are very short are dropped."""
    start, end = next(intervals, (0, 0))
    for following, its_end in intervals:
        if frame_time(following) - frame_time(end) > _MAX_PAUSE_S:
            if frame_time(end) - frame_time(start) >= _MIN_TURN_S:
                yield start, end
            start = following
        end = its_end
    if frame_time(end) - frame_time(start) >= _MIN_TURN_S:
        yield start, end
