"""diarization-nano's two networks as plain torch modules, so that training does not need pyannote.audio.

Both compute 64 mels of 16 kHz audio every 10 ms and pass them through the same kind of convolutional trunk, which has a
frame every 40 ms. The segmentation's trunk is initialised from the embedding's weights.
"""

import torch
from torch import nn
from torchaudio.functional import melscale_fbanks

SAMPLE_RATE = 16_000
FRAME = 640
"""Samples in a frame; a chunk of 10 s has 250 frames."""
FIRST_CENTRE = 256
"""The sample at the centre of the first frame."""
MELS = 64
CHANNELS = 224
POOLED = 448
DIMENSION = 128
CHUNK_S = 10.0
SPEAKERS = 4
"""The maximum number of speakers in a chunk; at most two speak at once."""
CLASSES = 1 + SPEAKERS + SPEAKERS * (SPEAKERS - 1) // 2

_WINDOW, _HOP = 512, 160
_FLOOR = 18.4
"""Nepers of power below the loudest mel at which audio counts as silence: 80 dB."""


def frames(samples: int) -> int:
    """Return the number of frames of `samples`."""
    mels = (samples - _WINDOW) // _HOP + 1
    return ((mels - 1) // 2) // 2 + 1


class Features(nn.Module):
    """Map (batch, samples) to (batch, MELS, time): log-mels of 10 ms, minus their mean over frames with sound."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = melscale_fbanks(_WINDOW // 2 + 1, 40.0, 7800.0, MELS, SAMPLE_RATE)
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(samples, _WINDOW, _HOP, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mels = torch.matmul(self.filters, power).clamp(min=1e-12).log()
        floor = mels.amax((1, 2), keepdim=True) - _FLOOR
        audible = (mels.amax(1, keepdim=True) > floor).to(mels.dtype)
        mels = torch.maximum(mels, floor)
        mean = (mels * audible).sum(2, keepdim=True) / audible.sum(2, keepdim=True).clamp(min=1)
        return (mels - mean) / 4


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalisation and a rectifier."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    )


class Trunk(nn.Sequential):
    """Map (batch, MELS, time) to (batch, CHANNELS, time / 4); the receptive field of a frame is 0.4 s."""

    def __init__(self) -> None:
        super().__init__(
            convolution(MELS, CHANNELS, 5, stride=2),
            convolution(CHANNELS, CHANNELS, 3),
            convolution(CHANNELS, CHANNELS, 3, stride=2),
            convolution(CHANNELS, CHANNELS, 3, dilation=2),
            convolution(CHANNELS, CHANNELS, 3, dilation=3),
        )


class EmbeddingNet(nn.Module):
    """Speaker embedding: one vector for the frames weighted by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        self.trunk = Trunk()
        self.widen = nn.Sequential(nn.Conv1d(CHANNELS, POOLED, 1, bias=False), nn.BatchNorm1d(POOLED))
        self.embedding = nn.Linear(2 * POOLED, DIMENSION)

    def forward(self, samples: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Map (batch, samples) to (batch, DIMENSION), or with weights (batch, speakers, frames) one for each."""
        frames = self.frames(self.features(samples))
        if weights is None:
            return self.pooled(frames, frames.new_ones(len(frames), 1, frames.shape[2]))[:, 0]
        return self.pooled(frames, weights)

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """Map features to (batch, POOLED, frames)."""
        frames: torch.Tensor = self.widen(self.trunk(features))
        return frames

    def pooled(self, frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of (batch, POOLED, frames) under weights (batch, speakers, frames)."""
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-6)
        mean = torch.matmul(weights, frames.transpose(1, 2))
        # The mean of squares minus the square of the mean would lose precision.
        spread = (frames.unsqueeze(1) - mean.unsqueeze(3)).square()
        variance = torch.matmul(spread, weights.unsqueeze(3)).squeeze(3)
        statistics = torch.cat([mean, (variance + 1e-5).sqrt()], dim=2)
        embeddings: torch.Tensor = self.embedding(statistics)
        return embeddings


class SegmentationNet(nn.Module):
    """Speaker segmentation of a chunk: log-probabilities of silence, of each speaker, and of each pair of speakers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        self.trunk = Trunk()
        self.lstm = nn.LSTM(CHANNELS, 160, num_layers=3, bidirectional=True, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(320, 128), nn.LeakyReLU())
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Map (batch, samples) to (batch, frames, CLASSES)."""
        return self.scores(self.features(samples))

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Map features to (batch, frames, CLASSES)."""
        states, _ = self.lstm(self.trunk(features).transpose(1, 2))
        return torch.log_softmax(self.classifier(self.hidden(states)).float(), dim=2)
