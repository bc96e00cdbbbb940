"""The interface of a diarization pipeline to the service."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.schemas.transcript import Turn

Samples = NDArray[np.float32]
"""16 kHz mono audio between -1 and 1, of shape (samples,)."""

Embedding = NDArray[np.float32]
"""A speaker embedding of shape (dimension,)."""

Heartbeat = Callable[[], None]
"""Called every few seconds of audio; cancels the work by raising."""


class SpeakerBounds(NamedTuple):
    """The number of speakers in a recording: at least and at most; null for no limit."""

    least: int = 1
    most: int | None = None


class FoundSpeakers(NamedTuple):
    """Turns in any order, with labels of the pipeline, and the embeddings of labels.

    A speaker of whom there was too little speech has no embedding, or one with NaN.
    """

    turns: Sequence[Turn]
    embeddings: Mapping[str, Embedding]


class DiarizationPipeline(Protocol):
    """A loaded pipeline. Always called in the same thread."""

    known_similarity: float
    """The cosine similarity above which two embeddings are of one speaker."""

    def find_speakers(self, samples: Samples, bounds: SpeakerBounds, heartbeat: Heartbeat) -> FoundSpeakers:
        """Return who speaks when. Turns may overlap, and may end after the recording."""

    def embed(self, samples: Samples) -> Embedding:
        """Return the embedding of audio with a single speaker; NaN if there is too little of it."""
