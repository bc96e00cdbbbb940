"""Voice activity detection: silero-vad's probabilities, and the speech segments derived from them."""

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
"""Samples of one probability: 32 ms, what silero-vad was trained on."""

_CONTEXT_SAMPLES = 64


class _Silero(nn.Module):
    """silero-vad's 16 kHz network on frames in a batch (its own file takes one at a time).

    Only the LSTM needs the frames in order, and torch runs that as one call. The spectra, which
    the file's network makes by a convolution with a windowed Fourier basis, come from an FFT.
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
        """(n, 64 + 512) samples → (n,) probabilities, and the state after them."""
        steps = functional.pad(frames, (0, 64), "reflect").unfold(1, 256, 128)
        spectrum = torch.view_as_real(torch.fft.rfft(steps * self.window))
        magnitude = spectrum.square().sum(-1).sqrt()  # torch.abs is slower
        hidden, state = self.rnn(self.encoder(magnitude.transpose(1, 2)).squeeze(2), state)
        return self.decoder(hidden.unsqueeze(2)).flatten(), state


# Names of the file's parameters, and ours. Its safetensors file holds an older network.
_NAMES = {
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
def _silero() -> _Silero:
    # Importing silero_vad would set torch's thread count for the whole process, so only find it.
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("silero-vad is not installed")
    file = Path(package.origin).parent / "data" / "silero_vad.jit"
    weights = torch.jit.load(file).state_dict()
    network = _Silero()
    basis = weights["_model.stft.forward_basis_buffer"]
    window = basis[0, 0]  # of frequency 0, where the cosine is 1
    network.load_state_dict({"window": window} | {ours: weights[f"_model.{theirs}"] for theirs, ours in _NAMES.items()})
    return network.eval().requires_grad_(False)


class SpeechDetector:
    """Speech probabilities of one recording, chunk by chunk; carries the network's state along."""

    def __init__(self) -> None:
        self._network = _silero()
        self._state: tuple[Tensor, Tensor] | None = None
        self._context = torch.zeros(_CONTEXT_SAMPLES)

    def __call__(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """The next samples, a whole number of frames: (n · 512,) int16 → (n,) probabilities."""
        sound = torch.cat((self._context, torch.from_numpy(pcm.astype(np.float32)) / 32768))
        self._context = sound[-_CONTEXT_SAMPLES:]
        frames = sound.unfold(0, _CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        with torch.inference_mode():
            probabilities, self._state = self._network(frames, self._state)
        result: NDArray[np.float32] = probabilities.numpy()
        return result


class SpeechSegment(NamedTuple):
    """Speech from frame `start` up to frame `end`, without it."""

    start: int
    end: int


CERTAIN_SPEECH = 0.5
"""silero-vad's own threshold: what is above it is speech beyond doubt."""


def certain(vad: VadSettings) -> VadSettings:
    """The same settings for what is speech beyond doubt."""
    return vad.model_copy(update={"threshold": max(vad.threshold, CERTAIN_SPEECH)})


# silero-vad's own hysteresis: speech goes on down to this far below the threshold.
_HYSTERESIS = 0.15
_LEAST_THRESHOLD = 0.01


class SpeechSegmenter:
    """Stretches of speech from frame probabilities, as they come.

    Speech begins at `threshold` and ends where the probability stays below `threshold` − 0.15 for
    `min_silence_ms`; shorter bursts than `min_speech_ms` are dropped. A stretch that reaches
    `longest` frames is cut at the frame of its second half that is least like speech, so two
    stretches may touch.

    `settled`: no later stretch begins before this frame.
    """

    def __init__(self, vad: VadSettings, longest: int) -> None:
        self._begin = vad.threshold
        self._go_on = max(vad.threshold - _HYSTERESIS, _LEAST_THRESHOLD)
        self._min_speech = _frames(vad.min_speech_ms)
        self._min_silence = _frames(vad.min_silence_ms)
        self._longest = longest
        self._position = 0
        self._start: int | None = None  # of the current stretch
        self._silence: int | None = None  # where the current stretch may have ended
        self._continued = False  # the current stretch is the rest of a longer one
        self._likelihoods: list[float] = []  # of the current stretch's frames

    @property
    def committed_until(self) -> int:
        return self._position if self._start is None else self._start

    def feed(self, probabilities: Iterable[float]) -> list[SpeechSegment]:
        """The stretches that these frames bring to an end."""
        return [stretch for probability in probabilities for stretch in self._step(probability)]

    def finish(self) -> list[SpeechSegment]:
        """The stretch that the end of the recording cuts off, if any."""
        return self._end(self._position if self._silence is None else self._silence)

    def _step(self, probability: float) -> list[SpeechSegment]:
        if self._start is None and probability >= self._begin:
            self._start, self._silence, self._continued, self._likelihoods = self._position, None, False, []
        position = self._position
        self._position += 1
        if self._start is None:
            return []
        self._likelihoods.append(probability)
        if probability >= self._begin:
            self._silence = None
        elif probability < self._go_on and self._silence is None:
            self._silence = position
        if self._silence is not None and self._position - self._silence >= self._min_silence:
            return self._end(self._silence)
        if len(self._likelihoods) >= self._longest:
            return self._split()
        return []

    def _end(self, end: int) -> list[SpeechSegment]:
        start, self._start = self._start, None
        # The rest of a cut stretch may hold nothing but the silence that was about to end it.
        if start is None or end == start or not (self._continued or end - start >= self._min_speech):
            return []
        return [SpeechSegment(start, end)]

    def _split(self) -> list[SpeechSegment]:
        assert self._start is not None
        half = self._longest // 2
        kept = min(range(self._longest - 1, half - 1, -1), key=self._likelihoods.__getitem__)
        stretch = SpeechSegment(self._start, self._start + kept)
        self._start, self._continued, self._likelihoods = stretch.end, True, self._likelihoods[kept:]
        if self._silence is not None:
            self._silence = max(self._silence, self._start)
        return [stretch]


def _frames(milliseconds: int) -> int:
    return round(milliseconds * SAMPLE_RATE / 1000 / FRAME_SAMPLES)
