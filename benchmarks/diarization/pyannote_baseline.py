"""pyannote.audio's own pipeline, unmodified, with the networks of pyannote-3.0-campplus."""

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pyannote.audio.core.model import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.core.task import Problem, Resolution, Specifications, Task
from pyannote.audio.pipelines import SpeakerDiarization
from safetensors.torch import load_file

from benchmarks.diarization.engines import PIPELINE
from serve_app.diarization.pyannote_campplus.campplus import (
    DIMENSION,
    FRAME,
    FRAME_OVERHANG,
    SAMPLE_RATE,
    CAMPPlus,
    compute_features,
)
from serve_app.diarization.pyannote_campplus.segmentation import load_network
from serve_app.models.catalogue import EMBEDDING, SEGMENTATION
from serve_app.models.resolve import resolve_pipeline

STEP = 0.2
"""The step of the chunks, as a share of 10 s: half as many chunks as the library's default. With it, it is faster."""
CLUSTERING = {"method": "average", "threshold": 0.45, "min_cluster_size": 12}
"""The best of those tried on real conversations."""


class CAMPPlusModel(Model):
    """CAM++ as a model of pyannote.audio: the network runs over a chunk, and the frames of one speaker are pooled."""

    def __init__(
        self, network: CAMPPlus, sample_rate: int = SAMPLE_RATE, num_channels: int = 1, task: Task | None = None
    ) -> None:
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.network = network
        self.specifications = Specifications(problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=10.0)

    @cached_property
    def dimension(self) -> int:
        return DIMENSION

    def num_frames(self, num_samples: int) -> int:
        return max(0, (num_samples - FRAME_OVERHANG) // FRAME)

    def receptive_field_size(self, num_frames: int = 1) -> int:
        return FRAME_OVERHANG + num_frames * FRAME

    def receptive_field_center(self, frame: int = 0) -> int:
        return (FRAME + FRAME_OVERHANG) // 2 + frame * FRAME

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Map (batch, 1, samples) and weights (batch, frames) to (batch, dimension)."""
        features = torch.stack([compute_features(wave[0]) for wave in waveforms])
        if weights is None:
            return self.network(features)  # type: ignore[no-any-return]
        frames = self.network.frames(features)
        weights = torch.nn.functional.interpolate(weights[:, None], size=frames.shape[1], mode="nearest")
        return self.network.embed(frames, weights)[:, 0]


def load_baseline(models: Path) -> Any:
    """Return the library's pipeline."""
    folder = Path(resolve_pipeline(PIPELINE, models, print))
    with TemporaryDirectory() as scratch:
        pipeline = SpeakerDiarization(
            segmentation=load_network(folder / SEGMENTATION),
            segmentation_step=STEP,
            segmentation_batch_size=8,
            embedding=CAMPPlusModel(CAMPPlus.from_checkpoint(load_file(folder / EMBEDDING))),
            embedding_batch_size=8,
            embedding_exclude_overlap=True,
            plda=_identity_plda(Path(scratch)),
            clustering="AgglomerativeClustering",
        )
    pipeline.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": CLUSTERING})
    return pipeline


def _identity_plda(folder: Path) -> PLDA:
    """Return a PLDA without effect: the library requires one even for clusterings that do not use it."""
    zeros, identity = np.zeros(DIMENSION, np.float32), np.eye(DIMENSION, dtype=np.float32)
    np.savez(folder / "xvec_transform.npz", mean1=zeros, mean2=zeros, lda=identity)
    np.savez(folder / "plda.npz", mu=zeros, tr=identity, psi=np.linspace(2, 1, DIMENSION))
    return PLDA.from_pretrained(folder)
