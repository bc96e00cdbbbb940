"""CAM++, a speaker embedding network: a densely connected TDNN with context-aware masking (Wang et al., 2023).

For inference only: batch normalisations are merged into the layers before them, and frames are rows, so that
convolutions over time are matrix products. A plain torch module, which does not need pyannote.audio.
"""

from collections.abc import Mapping
from typing import Self

import torch
import torchaudio.compliance.kaldi as kaldi
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, pad

SAMPLE_RATE = 16_000
_FEATURE_WINDOW, _FEATURE_HOP = 400, 160
FRAME = 2 * _FEATURE_HOP
"""Samples from one frame of the network to the next: 20 ms."""
FRAME_OVERHANG = _FEATURE_WINDOW - _FEATURE_HOP
"""Samples that the last frame needs besides."""
MELS = 80
CHANNELS = 512
"""The channels of a frame."""
DIMENSION = 192

_GROWTH, _BOTTLENECK = 32, 128
_BLOCKS = ((12, 1), (24, 2), (16, 2))
"""The layers and the dilation of each block."""
_CONTEXT_FRAMES = 100
_EPSILON = 1e-5


def compute_features(samples: Tensor) -> Tensor:
    """Map (samples,) to log mel energies of 25 ms every 10 ms, (time, MELS), as Kaldi computes them without dither."""
    energies: Tensor = kaldi.fbank(samples[None], num_mel_bins=MELS, sample_frequency=SAMPLE_RATE, dither=0.0)
    return energies


class CAMPPlus(nn.Module):
    """Maps features to frames, and statistics of the frames of a speaker to an embedding."""

    def __init__(self, checkpoint: "_Checkpoint") -> None:
        super().__init__()
        self.head = _Head(checkpoint.at("head"))
        layers = checkpoint.at("xvector")
        self.tdnn = layers.at("tdnn").linear("linear", "nonlinear.batchnorm")
        self.blocks = nn.ModuleList(
            _DenseBlock(layers.at(f"block{number}"), count, dilation)
            for number, (count, dilation) in enumerate(_BLOCKS, 1)
        )
        self.transits = nn.ModuleList(_Transit(layers.at(f"transit{number}")) for number in range(1, len(_BLOCKS) + 1))
        self.out = _ScaleShiftReLU(layers, "out_nonlinear.batchnorm")
        # 3D-Speaker's layer is not rectified; a published copy of the network, which rectifies it, tells speakers apart
        # far worse.
        self.dense = layers.at("dense").linear("linear", "nonlinear.batchnorm")

    @classmethod
    def from_checkpoint(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build the network from the tensors of a 3D-Speaker checkpoint."""
        return cls(_Checkpoint(tensors)).eval().requires_grad_(False)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the type in which frames are computed. Embeddings are computed in float32 from their statistics."""
        for name, layer in self.named_children():
            if name != "dense":
                layer.to(dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Map the features of one speaker, (batch, time, MELS), to embeddings, (batch, DIMENSION)."""
        frames = self.frames(features)
        return self.embed(frames, frames.new_ones(len(frames), 1, frames.shape[1]))[:, 0]

    def frames(self, features: Tensor) -> Tensor:
        """Map features (batch, time, MELS) to frames (batch, time / 2, CHANNELS) in float32."""
        features = features - features.mean(1, keepdim=True)
        frames = self.head(features.to(self.tdnn.weight.dtype))
        frames = self.tdnn(_unfold(frames, kernel=5, stride=2)).relu_()
        for block, transit in zip(self.blocks, self.transits, strict=True):
            frames = transit(block(frames))
        result: Tensor = self.out(frames).float()
        return result

    def embed(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Return the embeddings of frames that weights of 0 or 1 select.

        Maps frames (batch, frames, CHANNELS) and weights (batch, speakers, frames) to (batch, speakers, DIMENSION).
        """
        count = weights.sum(2, keepdim=True)
        mean = weights @ frames / count.clamp(min=1)
        # About the mean of all frames, because the difference of large squares is inexact.
        centre = frames.mean(1, keepdim=True)
        squares = weights @ (frames - centre).square() - count * (mean - centre).square()
        deviation = (squares / (count - 1).clamp(min=1)).clamp(min=1e-10).sqrt()
        embeddings: Tensor = self.dense(torch.cat([mean, deviation], dim=2))
        return embeddings


class _Checkpoint:
    """The tensors under a prefix of the checkpoint's names, as layers without batch normalisations."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    def at(self, name: str) -> "_Checkpoint":
        return _Checkpoint(self._tensors, f"{self._prefix}{name}.")

    def scale_shift(self, norm: str) -> tuple[Tensor, Tensor]:
        """Return the factors and summands of a batch normalisation."""
        mean, variance = self[f"{norm}.running_mean"], self[f"{norm}.running_var"]
        scale = (variance + _EPSILON).rsqrt()
        if f"{self._prefix}{norm}.weight" not in self._tensors:
            return scale, -mean * scale
        scale = scale * self[f"{norm}.weight"]
        return scale, self[f"{norm}.bias"] - mean * scale

    def linear(self, convolution: str, norm: str | None = None) -> nn.Linear:
        """Return a convolution over time as a product with unfolded frames, with the normalisation after it."""
        weight = self[f"{convolution}.weight"].transpose(1, 2).flatten(1)
        bias = self._tensors.get(f"{self._prefix}{convolution}.bias")
        if norm is not None:
            scale, bias = self.scale_shift(norm)
            weight = weight * scale[:, None]
        layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
        return layer

    def conv2d(self, name: str, norm: str, stride: tuple[int, int]) -> nn.Conv2d:
        """Return a convolution over frequency and time, with the normalisation after it."""
        scale, bias = self.scale_shift(norm)
        weight = self[f"{name}.weight"] * scale[:, None, None, None]
        outputs, inputs, size, _ = weight.shape
        layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, device="meta")
        layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        return layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]


class _Head(nn.Module):
    """Map features (batch, time, MELS) to (batch, time, 32 * MELS / 8): convolutions over frequency and time."""

    def __init__(self, checkpoint: _Checkpoint) -> None:
        super().__init__()
        self.first = checkpoint.conv2d("conv1", "bn1", (1, 1))
        self.blocks = nn.Sequential(
            *(
                _ResidualBlock(checkpoint.at(f"layer{layer}.{number}"), stride)
                for layer in (1, 2)
                for number, stride in enumerate((2, 1))
            )
        )
        self.last = checkpoint.conv2d("conv2", "bn2", (2, 1))

    def forward(self, features: Tensor) -> Tensor:
        spectra = features.transpose(1, 2).unsqueeze(1).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.last(self.blocks(self.first(spectra).relu_())).relu_()
        return maps.permute(0, 3, 1, 2).flatten(2)


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the stride divides the number of frequencies."""

    def __init__(self, checkpoint: _Checkpoint, stride: int) -> None:
        super().__init__()
        self.first = checkpoint.conv2d("conv1", "bn1", (stride, 1))
        self.second = checkpoint.conv2d("conv2", "bn2", (1, 1))
        self.shortcut = checkpoint.conv2d("shortcut.0", "shortcut.1", (stride, 1)) if stride > 1 else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        sums: Tensor = self.second(self.first(maps).relu_()) + self.shortcut(maps)
        return sums.relu_()


class _ScaleShiftReLU(nn.Module):
    """A batch normalisation that is not after a convolution, and a rectifier."""

    scale: Tensor
    shift: Tensor

    def __init__(self, checkpoint: _Checkpoint, norm: str) -> None:
        super().__init__()
        scale, shift = checkpoint.scale_shift(norm)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, frames: Tensor) -> Tensor:
        return torch.addcmul(self.shift, frames, self.scale).relu_()


class _DenseBlock(nn.Module):
    """Layers that each receive the block's input and the outputs of all layers before them."""

    def __init__(self, checkpoint: _Checkpoint, layers: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _DenseLayer(checkpoint.at(f"tdnnd{number}"), dilation) for number in range(1, layers + 1)
        )

    def forward(self, frames: Tensor) -> Tensor:
        batch, time, channels = frames.shape
        # Every layer writes its output after its input, instead of copying both.
        outputs = frames.new_empty(batch, time, channels + len(self.layers) * _GROWTH)
        outputs[:, :, :channels] = frames
        for layer in self.layers:
            outputs[:, :, channels : channels + _GROWTH] = layer(outputs[:, :, :channels])
            channels += _GROWTH
        return outputs


class _DenseLayer(nn.Module):
    """A convolution whose output is multiplied by a mask, made from the means of all frames and of each 2 s."""

    def __init__(self, checkpoint: _Checkpoint, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = _ScaleShiftReLU(checkpoint, "nonlinear1.batchnorm")
        self.bottleneck = checkpoint.linear("linear1", "nonlinear2.batchnorm")
        self.local = checkpoint.linear("cam_layer.linear_local")
        self.context = checkpoint.linear("cam_layer.linear1")
        self.mask = checkpoint.linear("cam_layer.linear2")

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.bottleneck(self.norm(frames)).relu_()
        local: Tensor = self.local(_unfold(frames, kernel=3, dilation=self.dilation))
        return local * self._masks(frames)

    def _masks(self, frames: Tensor) -> Tensor:
        """Return factors of shape (batch, frames or 1, channels)."""
        time = frames.shape[1]
        means = frames.mean(1, keepdim=True)
        if time > _CONTEXT_FRAMES:
            parts = avg_pool1d(frames.transpose(1, 2), _CONTEXT_FRAMES, _CONTEXT_FRAMES, ceil_mode=True)
            means = means + parts.transpose(1, 2)
        else:
            means = 2 * means
        masks: Tensor = self.mask(self.context(means).relu_()).sigmoid_()
        return masks.repeat_interleave(_CONTEXT_FRAMES, dim=1)[:, :time] if time > _CONTEXT_FRAMES else masks


class _Transit(nn.Module):
    """Halve the number of channels."""

    def __init__(self, checkpoint: _Checkpoint) -> None:
        super().__init__()
        self.norm = _ScaleShiftReLU(checkpoint, "nonlinear.batchnorm")
        self.linear = checkpoint.linear("linear")

    def forward(self, frames: Tensor) -> Tensor:
        halved: Tensor = self.linear(self.norm(frames))
        return halved


def _unfold(frames: Tensor, kernel: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Map (batch, time, channels) to (batch, time / stride, kernel * channels): each frame with those around it."""
    batch, time, channels = frames.shape
    margin = dilation * (kernel - 1) // 2
    padded = pad(frames, (0, 0, margin, margin)).contiguous()
    row, count = padded.stride(1), (time - 1) // stride + 1
    windows = padded.as_strided((batch, count, kernel, channels), (padded.stride(0), stride * row, dilation * row, 1))
    return windows.flatten(2)
