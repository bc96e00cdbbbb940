"""A pipeline of pyannote.audio: embedded, from a folder, or from the hub."""

import re
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.protocol import Embedding, FoundSpeakers, Heartbeat, Samples, SpeakerBounds
from serve_app.diarization.pyannote_library import import_pyannote
from serve_app.models import model_source
from serve_app.schemas.transcript import Turn

BATCH_SIZE = {"cpu": 8, "cuda": 32}
"""Chunks computed together. Measured on a CPU with diarization-nano: 4 and 16 are a tenth slower, 32 is a third slower,
because it exceeds a core's cache.
"""

KNOWN_SIMILARITY = {"diarization-nano": 0.85}
"""The minimum similarity of known speakers. Measured with 455 clips of 2.5 to 10 s against the speakers found in 16
held-out conversations: 2 % of matching pairs are below, 9 % of others above.
"""

OTHERS_SIMILARITY = 0.5
"""For other pipelines; not measured. Embeddings trained on thousands of people separate strangers more clearly."""

EXAMPLE_PIPELINE = "pyannote/speaker-diarization-community-1"

_HUB_ID = r"[\w.-]+/[\w.-]+"


class PipelineError(ValueError):
    """A pipeline can't be loaded; the message says what would help."""


class PyannotePipeline:
    """The library's pipeline; faster, with identical results, if its networks allow."""

    def __init__(self, pipeline: Any, known_similarity: float = OTHERS_SIMILARITY) -> None:
        self._pipeline = pipeline
        self.known_similarity = known_similarity

    @classmethod
    def load(cls, name: str, token: str | None, device: str, batch_size: int | None) -> Self:
        """Load a pipeline. Raises PipelineError if it does not exist or the token gives no access to it."""
        pipeline = load_pyannote(name, token)
        pipeline.to(torch.device(device))
        from serve_app.diarization.fast_pipeline import (
            BatchedSpeakerDiarization,  # after `load_pyannote`, which imports its library quietly
        )

        if BatchedSpeakerDiarization.is_supported(pipeline):
            pipeline.__class__ = BatchedSpeakerDiarization
        pipeline.segmentation_batch_size = pipeline.embedding_batch_size = batch_size or BATCH_SIZE[device]
        return cls(pipeline, KNOWN_SIMILARITY.get(name, OTHERS_SIMILARITY))

    def find_speakers(self, samples: Samples, bounds: SpeakerBounds, heartbeat: Heartbeat) -> FoundSpeakers:
        with warnings.catch_warnings():
            # Warnings about speech too short for an embedding, and about fewer speakers than requested.
            warnings.simplefilter("ignore")
            found = self._pipeline.apply(
                {"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE, "uri": "recording"},
                min_speakers=bounds.least,
                max_speakers=np.inf if bounds.most is None else bounds.most,
                hook=lambda *_, **__: heartbeat(),
            )
        turns = [
            Turn(start=max(0.0, at.start), end=at.end, speaker=label)
            for at, _, label in found.speaker_diarization.itertracks(yield_label=True)
        ]
        labels = found.speaker_diarization.labels()
        return FoundSpeakers(turns, dict(zip(labels, found.speaker_embeddings, strict=True)))

    def embed(self, samples: Samples) -> Embedding:
        embedding: Embedding = self._pipeline._embedding(torch.from_numpy(samples)[None, None])[0]
        return embedding


def load_pyannote(name: str, token: str | None) -> Any:
    """Load pyannote's own pipeline: embedded, from a folder, or from a hub. Telemetry is disabled.

    Raises PipelineError.
    """
    source = Path(model_source(name))
    local = source.is_dir()
    if not local and (source.is_absolute() or not re.fullmatch(_HUB_ID, name)):
        # pyannote would look it up on the hub.
        raise PipelineError(f"{name} is neither an existing folder nor a hub id such as {EXAMPLE_PIPELINE}")
    import_pyannote(offline=local)
    from pyannote.audio import Pipeline

    try:
        pipeline = Pipeline.from_pretrained(str(source) if local else name, token=token)
    except (OSError, ValueError, KeyError) as error:
        raise PipelineError(f"{name} can't be loaded: {error}") from error
    if pipeline is None:
        raise PipelineError(f"{name} can't be downloaded: accept its conditions on the hub and set diarization.token")
    return pipeline
