"""Segmentation, embedding and clustering of a recording."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file

from serve_app.diarization.protocol import Embedding, FoundSpeakers, Heartbeat, Samples, SpeakerBounds
from serve_app.diarization.pyannote_campplus.campplus import DIMENSION, CAMPPlus
from serve_app.diarization.pyannote_campplus.clustering import cluster, nearest
from serve_app.diarization.pyannote_campplus.embedding import embed_clip, embed_stretches
from serve_app.diarization.pyannote_campplus.frames import embedding_frames
from serve_app.diarization.pyannote_campplus.segmentation import load_segmentation, segment
from serve_app.diarization.pyannote_campplus.stretches import find_stretches
from serve_app.diarization.pyannote_campplus.timeline import find_turns
from serve_app.models.catalogue import EMBEDDING, SEGMENTATION
from serve_app.schemas.transcript import Turn
from serve_app.whisper.model.whisper_model import bfloat16_is_fast

KNOWN_SIMILARITY = 0.5
"""The minimum similarity of known speakers."""


class CampplusPipeline:
    """The pipeline `pyannote-3.0-campplus`."""

    known_similarity = KNOWN_SIMILARITY

    def __init__(self, segmentation: Any, network: CAMPPlus) -> None:
        self._segmentation, self._network = segmentation, network

    @classmethod
    def load(cls, folder: Path, device: str, batch_size: int | None) -> Self:
        """Load the networks from a folder of the catalogue. `batch_size`: of the segmentation; null for the default."""
        dtype = torch.bfloat16 if device == "cpu" and bfloat16_is_fast() else torch.float32
        network = CAMPPlus.from_checkpoint(load_file(folder / EMBEDDING))
        network.set_dtype(dtype)
        return cls(load_segmentation(folder / SEGMENTATION, device, dtype, batch_size), network.to(device))

    def find_speakers(self, samples: Samples, bounds: SpeakerBounds, heartbeat: Heartbeat) -> FoundSpeakers:
        activity = segment(self._segmentation, samples, heartbeat)
        stretches = list(find_stretches(activity, embedding_frames(len(samples))))
        parts = [part for stretch in stretches for part in stretch.parts()]
        speakers, labels = np.zeros((0, DIMENSION), np.float32), []
        if stretches:
            wholes, divided = embed_stretches(self._network, samples, stretches, heartbeat)
            speakers = cluster(wholes, np.array([stretch.seconds for stretch in stretches]), bounds)
            labels = nearest(divided, speakers).tolist()
        turns = find_turns(activity, parts, labels, len(speakers), bounds.most)
        return FoundSpeakers(
            [Turn(start=turn.start, end=turn.end, speaker=str(turn.speaker)) for turn in turns],
            {str(number): speaker for number, speaker in enumerate(speakers)},
        )

    def embed(self, samples: Samples) -> Embedding:
        return embed_clip(self._network, samples)
