"""Log-mel features, on the device: what transformers' WhisperFeatureExtractor computes, without its way back."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import WhisperFeatureExtractor

FLOOR = 1e-10
"""Power of silence (openai-whisper, `log_mel_spectrogram`)."""


class LogMel:
    """A checkpoint's feature extractor."""

    def __init__(self, extractor: WhisperFeatureExtractor, device: torch.device) -> None:
        self._size, self._hop = extractor.n_fft, extractor.hop_length
        self._samples = extractor.n_samples
        self._window = torch.hann_window(self._size, device=device)
        self._filters = torch.tensor(extractor.mel_filters.T, dtype=torch.float32, device=device)

    def __call__(self, windows: Sequence[NDArray[np.int16]]) -> Tensor:
        """Features of 16 kHz windows, `(windows, mels, frames)` in float32, padded with silence."""
        # Frames that hold nothing but padding need no Fourier transform: they are all the same.
        heard = min(max(map(len, windows)) + self._size, self._samples)
        heard = -(-heard // self._hop) * self._hop
        sound = torch.stack(
            [pad(torch.from_numpy(window).to(self._window.device), (0, heard - len(window))) for window in windows]
        )
        spectrum = torch.stft(sound.float() / 32768, self._size, self._hop, window=self._window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2
        loudness = (self._filters @ power).clamp(min=FLOOR).log10()
        loudness = pad(loudness, (0, self._samples // self._hop - loudness.shape[-1]), value=float(np.log10(FLOOR)))
        loudest = loudness.amax(dim=(1, 2), keepdim=True)
        return (loudness.maximum(loudest - 8) + 4) / 4
