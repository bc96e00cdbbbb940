"""Voice activity detection (VAD): speech probabilities by silero-vad, and the speech segments derived from them."""

import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from serve_app.audio import SAMPLE_RATE
from serve_app.settings import VadSettings

FRAME_SAMPLES = 512
"""Samples per speech probability: 32 ms, as in silero-vad's training."""

_CONTEXT_SAMPLES = 64


class _Silero(nn.Module):
    """silero-vad's 16 kHz network for a batch of frames. The published network takes one frame at a time.

    Only the LSTM needs the frames in order, and torch runs it in one call. The published network computes spectra by a
    convolution with a windowed Fourier basis; here it is an FFT.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window: Tensor
        self.register_buffer("window", torch.empty(256))
        self.encoder = nn.Sequential(
            *(nn.Conv1d(129, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv1d(128, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv1d(64, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv1d(64, 128, 3, padding=1), nn.ReLU()),
        )
        self.rnn = nn.LSTM(128, 128)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Conv1d(128, 1, 1), nn.Sigmoid())

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the probabilities (frames,) of frames (frames, 64 + 512), and the LSTM state after them."""
        steps = functional.pad(frames, (0, 64), "reflect").unfold(1, 256, 128)
        spectrum = torch.view_as_real(torch.fft.rfft(steps * self.window))
        magnitude = spectrum.square().sum(-1).sqrt()  # torch.abs is slower
        hidden, state = self.rnn(self.encoder(magnitude.transpose(1, 2)).squeeze(2), state)
        return self.decoder(hidden.unsqueeze(2)).flatten(), state


# The published TorchScript file's parameter names, and ours. silero-vad's safetensors file has an older network.
_PARAMETER_NAMES = {
    **{
        f"encoder.{layer}.reparam_conv.{kind}": f"encoder.{2 * layer}.{kind}"
        for layer in range(4)
        for kind in ("weight", "bias")
    },
    **{f"decoder.rnn.{name}": f"rnn.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    "decoder.decoder.2.weight": "decoder.1.weight",
    "decoder.decoder.2.bias": "decoder.1.bias",
}


@cache
def _load_silero() -> _Silero:
    # Importing silero_vad would set torch's thread count for the whole process: only locate it.
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("silero-vad is not installed")
    file = Path(package.origin).parent / "data" / "silero_vad.jit"
    weights = torch.jit.load(file).state_dict()
    network = _Silero()
    basis = weights["_model.stft.forward_basis_buffer"]
    window = basis[0, 0]  # the basis of frequency 0, where the cosine is 1
    network.load_state_dict(
        {"window": window} | {ours: weights[f"_model.{theirs}"] for theirs, ours in _PARAMETER_NAMES.items()}
    )
    return network.eval().requires_grad_(False)


class SpeechDetector:
    """Computes the speech probabilities of one recording, chunk by chunk. Keeps the network's state between chunks."""

    def __init__(self) -> None:
        self._network = _load_silero()
        self._state: tuple[Tensor, Tensor] | None = None
        self._context = torch.zeros(_CONTEXT_SAMPLES)

    def __call__(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return the probabilities (frames,) of the next samples: int16 (frames * 512,)."""
        samples = torch.cat((self._context, torch.from_numpy(pcm.astype(np.float32)) / 32768))
        self._context = samples[-_CONTEXT_SAMPLES:]
        frames = samples.unfold(0, _CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        with torch.inference_mode():
            probabilities, self._state = self._network(frames, self._state)
        result: NDArray[np.float32] = probabilities.numpy()
        return result


class SpeechSegment(NamedTuple):
    """The frames of speech from `start` to `end` (exclusive)."""

    start: int
    end: int


CERTAIN_SPEECH_THRESHOLD = 0.5
"""silero-vad's default threshold. Above it, the audio is almost certainly speech."""


def certain_speech_settings(vad: VadSettings) -> VadSettings:
    """Return the settings with at least the threshold of certain speech."""
    return vad.model_copy(update={"threshold": max(vad.threshold, CERTAIN_SPEECH_THRESHOLD)})


# silero-vad's hysteresis: the offset threshold is this much below the onset threshold.
_HYSTERESIS = 0.15
_MIN_OFFSET = 0.01


class SpeechSegmenter:
    """Derives speech segments from frame probabilities, incrementally.

    Speech begins at `threshold` and ends where the probability stays below `threshold` - 0.15 for `min_silence_ms`.
    Segments shorter than `min_speech_ms` are dropped. A segment that reaches `max_frames` is split at the frame of its
    second half with the lowest probability: the two parts touch.
    """

    def __init__(self, vad: VadSettings, max_frames: int) -> None:
        self._onset = vad.threshold
        self._offset = max(vad.threshold - _HYSTERESIS, _MIN_OFFSET)
        self._min_speech = _to_frames(vad.min_speech_ms)
        self._min_silence = _to_frames(vad.min_silence_ms)
        self._max_frames = max_frames
        self._position = 0
        self._start: int | None = None  # of the current segment
        self._silence_start: int | None = None  # where the current segment may have ended
        self._is_continuation = False  # the current segment is the rest of a split one
        self._probabilities: list[float] = []  # of the current segment's frames

    @property
    def committed_until(self) -> int:
        """The frame before which no later segment begins."""
        return self._position if self._start is None else self._start

    def feed(self, probabilities: Iterable[float]) -> list[SpeechSegment]:
        """Return the segments that end within these frames."""
        return [segment for probability in probabilities for segment in self._step(probability)]

    def finish(self) -> list[SpeechSegment]:
        """Return the segment that is still open at the end of the recording, if any."""
        return self._end(self._position if self._silence_start is None else self._silence_start)

    def _step(self, probability: float) -> list[SpeechSegment]:
        if self._start is None and probability >= self._onset:
            self._start, self._silence_start = self._position, None
            self._is_continuation, self._probabilities = False, []
        position = self._position
        self._position += 1
        if self._start is None:
            return []
        self._probabilities.append(probability)
        if probability >= self._onset:
            self._silence_start = None
        elif probability < self._offset and self._silence_start is None:
            self._silence_start = position
        if self._silence_start is not None and self._position - self._silence_start >= self._min_silence:
            return self._end(self._silence_start)
        if len(self._probabilities) >= self._max_frames:
            return self._split()
        return []

    def _end(self, end: int) -> list[SpeechSegment]:
        start, self._start = self._start, None
        # The rest of a split segment may consist of the silence that was about to end it.
        if start is None or end == start or not (self._is_continuation or end - start >= self._min_speech):
            return []
        return [SpeechSegment(start, end)]

    def _split(self) -> list[SpeechSegment]:
        assert self._start is not None
        half = self._max_frames // 2
        split_at = min(range(self._max_frames - 1, half - 1, -1), key=self._probabilities.__getitem__)
        segment = SpeechSegment(self._start, self._start + split_at)
        self._start, self._is_continuation, self._probabilities = segment.end, True, self._probabilities[split_at:]
        if self._silence_start is not None:
            self._silence_start = max(self._silence_start, self._start)
        return [segment]


def _to_frames(milliseconds: int) -> int:
    return round(milliseconds * SAMPLE_RATE / 1000 / FRAME_SAMPLES)
