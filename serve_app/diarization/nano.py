"""diarization-nano's networks as pyannote.audio models.

Checkpoints refer to these classes by import path, which must not change.
"""

import torch
from pyannote.audio.core.model import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications, Task

from serve_app.diarization import nets


class NanoModel(Model):
    """The base of both models: the network and the times of its frames."""

    def __init__(
        self, net: torch.nn.Module, sample_rate: int = nets.SAMPLE_RATE, num_channels: int = 1, task: Task | None = None
    ) -> None:
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.net = net

    def num_frames(self, num_samples: int) -> int:
        return nets.frames(num_samples)

    def receptive_field_size(self, num_frames: int = 1) -> int:
        return num_frames * nets.FRAME

    def receptive_field_center(self, frame: int = 0) -> int:
        return nets.FIRST_CENTRE + frame * nets.FRAME


class NanoSegmentation(NanoModel):
    """Segmentation of a chunk of 10 s with up to four speakers, two at once."""

    def __init__(self, sample_rate: int = nets.SAMPLE_RATE, num_channels: int = 1, task: Task | None = None) -> None:
        super().__init__(nets.SegmentationNet(), sample_rate, num_channels, task)

    @property
    def dimension(self) -> int:
        return nets.CLASSES

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Map (batch, 1, samples) to (batch, frames, classes)."""
        scores: torch.Tensor = self.net(waveforms[:, 0])
        return scores


class NanoEmbedding(NanoModel):
    """Speaker embedding."""

    def __init__(self, sample_rate: int = nets.SAMPLE_RATE, num_channels: int = 1, task: Task | None = None) -> None:
        super().__init__(nets.EmbeddingNet(), sample_rate, num_channels, task)

    @property
    def dimension(self) -> int:
        return nets.DIMENSION

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Map (batch, 1, samples) and weights (batch[, speakers], frames) to one vector for each mask."""
        samples = waveforms[:, 0]
        if weights is None or weights.dim() == 3:
            vectors: torch.Tensor = self.net(samples, weights)
            return vectors
        return self.net(samples, weights.unsqueeze(1))[:, 0]  # type: ignore[no-any-return]


def segmentation_specifications() -> Specifications:
    """Return pyannote's specifications of the segmentation task."""
    return Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=nets.CHUNK_S,
        classes=[f"speaker#{number + 1}" for number in range(nets.SPEAKERS)],
        powerset_max_classes=2,
        permutation_invariant=True,
    )


def embedding_specifications() -> Specifications:
    """Return pyannote's specifications of the embedding task."""
    return Specifications(problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=nets.CHUNK_S)
