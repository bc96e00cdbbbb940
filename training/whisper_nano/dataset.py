"""The training data: mel spectrograms of single utterances and of noises, from which windows are composed.

A folder with clips.npy ((frames, 80) float16, log10 of power, 10 ms a frame), clips.json and noises.npz.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers.audio_utils import mel_filter_bank

from serve_app.audio import SAMPLE_RATE
from testing.noise import normalise_level
from training.whisper_nano.digits import LANGUAGES
from training.whisper_nano.speech import Clip
from training.whisper_nano.tokenizer import MELS

Mel = npt.NDArray[np.float32]

FRAMES_A_SECOND = 100
_N_FFT, _HOP = 400, SAMPLE_RATE // FRAMES_A_SECOND
_MARGIN = 2
_FILTERS = torch.tensor(
    mel_filter_bank(1 + _N_FFT // 2, MELS, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney").T,
    dtype=torch.float32,
)


@dataclass(frozen=True)
class ClipEntry:
    """The position of a clip in clips.npy, and its digits with their (start, end) in frames from there."""

    language: str
    voice: str
    digits: tuple[int, ...]
    words: tuple[tuple[float, float], ...]
    first: int
    frames: int


def mel_power(samples: npt.NDArray[np.float32]) -> Mel:
    """Return Whisper's mel spectrogram before its logarithm: (frames, 80)."""
    window = torch.hann_window(_N_FFT)
    spectrum = torch.stft(
        torch.from_numpy(samples), _N_FFT, _HOP, window=window, return_complex=True, pad_mode="constant"
    )
    power: Mel = (_FILTERS @ spectrum[:, :-1].abs().square()).T.contiguous().numpy()
    return power


def clip_mel(clip: Clip) -> npt.NDArray[np.float16]:
    """Return the stored form of a clip: at -20 dBFS, with 20 ms of silence on each side."""
    margin = np.zeros(_MARGIN * _HOP, np.float32)
    fill = np.zeros(-len(clip.samples) % _HOP, np.float32)
    power = mel_power(np.concatenate([margin, normalise_level(clip.samples), fill, margin]))
    return np.log10(np.maximum(power, 1e-10)).astype(np.float16)


def entry(clip: Clip, first: int, frames: int) -> ClipEntry:
    """Return a clip's entry in clips.json."""
    words = tuple(
        (round(start * FRAMES_A_SECOND + _MARGIN, 1), round(end * FRAMES_A_SECOND + _MARGIN, 1))
        for start, end in clip.words
    )
    return ClipEntry(clip.language, clip.voice, clip.digits, words, first, frames)


class SpeechDataset:
    """The data folder, loaded. Clips stay on disk."""

    def __init__(self, folder: Path) -> None:
        self._mels = np.load(folder / "clips.npy", mmap_mode="r")
        lines = json.loads((folder / "clips.json").read_text())
        self.clips = [
            ClipEntry(
                line["language"],
                line["voice"],
                tuple(line["digits"]),
                tuple((start, end) for start, end in line["words"]),
                line["first"],
                line["frames"],
            )
            for line in lines
        ]
        self.by_language = {
            language: [clip for clip in self.clips if clip.language == language] for language in LANGUAGES
        }
        with np.load(folder / "noises.npz") as noises:
            self.noises: list[Mel] = [noises[name].astype(np.float32) for name in noises.files]

    def mel(self, clip: ClipEntry) -> Mel:
        """Return a clip's (frames, 80) log10 power."""
        stored: Mel = np.asarray(self._mels[clip.first : clip.first + clip.frames]).astype(np.float32)
        return stored


def write(folder: Path, mels: list[npt.NDArray[np.float16]], clips: list[ClipEntry], noises: dict[str, Mel]) -> None:
    """Write a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "clips.npy", np.concatenate(mels))
    (folder / "clips.json").write_text(json.dumps([asdict(clip) for clip in clips]))
    np.savez(folder / "noises.npz", **noises)
