"""The frames of both networks, and their times. Pure."""

import numpy as np
from numpy.typing import NDArray

from serve_app.diarization.pyannote_campplus.campplus import FRAME, FRAME_OVERHANG, SAMPLE_RATE

CHUNK_S, CHUNK_STEP_S = 10.0, 2.5
"""The length of a segmentation chunk, and the time from one to the next. The error rate on real readers, without the
help of voice activity detection, was 4.6 %, with a step of 2 s 4.6, with 1 s 4.3, with 5 s 6.0, because a frame in two
chunks has no majority.
"""
CHUNK_FRAMES = 589
"""The segmentation's frames in a chunk."""
SPEAKERS = 3
"""The maximum number of speakers in a chunk."""

_SEGMENTATION_STEP, _SEGMENTATION_CENTRE = 270, 495.5
"""Samples from one frame of the segmentation to the next, and the centre of the first."""
_EMBEDDING_CENTRE = (FRAME + FRAME_OVERHANG) / 2
"""The centre of the embedding's first frame, in samples."""

EMBEDDING_FRAMES_PER_S = SAMPLE_RATE // FRAME

Activity = NDArray[np.bool_]
"""Whether each speaker of each chunk speaks: (chunks, CHUNK_FRAMES, SPEAKERS)."""


def embedding_frames(samples: int) -> int:
    """Return the number of the embedding's frames in a recording."""
    return max(0, (samples - FRAME_OVERHANG) // FRAME)


def first_frame(chunk: int) -> int:
    """Return the number of a chunk's first frame among the segmentation's frames of the whole recording."""
    return round(chunk * CHUNK_STEP_S * SAMPLE_RATE / _SEGMENTATION_STEP)


def frame_time(frame: int) -> float:
    """Return where a frame of the segmentation begins, in seconds; its end is where the next begins."""
    return (frame * _SEGMENTATION_STEP + _SEGMENTATION_CENTRE - _SEGMENTATION_STEP / 2) / SAMPLE_RATE


def segmentation_frame(embedding_frame: int) -> int:
    """Return the number of the segmentation's frame, in the whole recording, where a frame of the embedding begins."""
    return segmentation_frame_at(embedding_frame * FRAME + _EMBEDDING_CENTRE - FRAME / 2)


def segmentation_frame_at(sample: float) -> int:
    """Return the number of the segmentation's frame that begins nearest to a sample."""
    return max(0, round((sample - _SEGMENTATION_CENTRE + _SEGMENTATION_STEP / 2) / _SEGMENTATION_STEP))


def segmentation_frames_in_chunk(chunk: int, start: int, end: int) -> NDArray[np.int64]:
    """Return the frames of a chunk at the centres of the embedding's frames `start` to `end` of the whole recording."""
    centres = np.arange(start, end) * FRAME + _EMBEDDING_CENTRE - chunk * CHUNK_STEP_S * SAMPLE_RATE
    frames = np.rint((centres - _SEGMENTATION_CENTRE) / _SEGMENTATION_STEP).astype(np.int64)
    clipped: NDArray[np.int64] = frames.clip(0, CHUNK_FRAMES - 1)
    return clipped
