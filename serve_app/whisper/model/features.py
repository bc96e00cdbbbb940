"""Log-mel features, computed on the device. The same as transformers' WhisperFeatureExtractor."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from serve_app.audio import SAMPLE_RATE

FFT_SAMPLES, HOP_SAMPLES = 400, 160
"""Windows of 25 ms every 10 ms (Whisper paper, section 2.2)."""

FRAMES_PER_STATE = 2
"""Feature frames per encoder state: the encoder's second convolution has a stride of 2."""

FLOOR = 1e-10
"""Lower bound of the power, that of silence (openai-whisper, `log_mel_spectrogram`)."""


class LogMel:
    """Computes log-mel features with `mels` bands, in windows of `frames` frames."""

    def __init__(self, mels: int, frames: int, device: torch.device) -> None:
        self._frames = frames
        self._window = torch.hann_window(FFT_SAMPLES, device=device)
        self._filters = torch.tensor(mel_filters(mels), dtype=torch.float32, device=device)

    def __call__(self, windows: Sequence[NDArray[np.int16]]) -> Tensor:
        """Return the features of 16 kHz windows: float32 `(windows, mels, frames)`, padded with silence."""
        # Frames of padding only need no Fourier transform: they are all the same.
        padded = min(max(map(len, windows)) + FFT_SAMPLES, self._frames * HOP_SAMPLES)
        padded = -(-padded // HOP_SAMPLES) * HOP_SAMPLES
        samples = torch.stack(
            [pad(torch.from_numpy(window).to(self._window.device), (0, padded - len(window))) for window in windows]
        )
        spectrum = torch.stft(
            samples.float() / 32768, FFT_SAMPLES, HOP_SAMPLES, window=self._window, return_complex=True
        )
        spectrum = spectrum[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()  # abs() ** 2 takes a CPU three times as long
        log_mel = (self._filters @ power).clamp(min=FLOOR).log10()
        log_mel = pad(log_mel, (0, self._frames - log_mel.shape[-1]), value=float(np.log10(FLOOR)))
        maximum = log_mel.amax(dim=(1, 2), keepdim=True)
        return (log_mel.maximum(maximum - 8) + 4) / 4


def mel_filters(count: int) -> NDArray[np.float64]:
    """Return the mel filter bank `(count, 201)`: the weights of frequencies in triangular bands from 0 to 8 kHz.

    As Whisper's: on Slaney's mel scale, linear below 1 kHz and logarithmic above, each band with the same area.
    """
    mels = np.linspace(0, _LINEAR_MELS + np.log(8) / _MEL_STEP, count + 2)
    edges = np.where(mels < _LINEAR_MELS, mels * _LINEAR_HZ, 1000 * np.exp((mels - _LINEAR_MELS) * _MEL_STEP))
    frequencies = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((frequencies - low) / (peak - low), (high - frequencies) / (high - peak))
    filters: NDArray[np.float64] = triangles.clip(min=0) * 2 / (high - low)
    return filters


_LINEAR_MELS, _LINEAR_HZ = 15, 200 / 3
"""Number of mels up to 1 kHz, and Hz per mel there."""

_MEL_STEP = np.log(6.4) / 27
"""Logarithm of the ratio between neighbouring mels above 1 kHz."""
