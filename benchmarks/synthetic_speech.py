"""Shared code of the makers of held-out recordings: words with times, encoded files, truth.json, the command line."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from torchaudio.functional import resample

from serve_app.audio import SAMPLE_RATE
from training.whisper_nano.speech import Samples

FORMATS = ("wav", "mp3", "opus")
NOISES = ("white", "pink", "brown")
_CODECS = {"wav": "pcm_s16le", "mp3": "libmp3lame", "opus": "libopus"}


@dataclass(frozen=True)
class SpokenWord:
    """A word with its start and end in seconds."""

    word: str
    start: float
    end: float


class AudioFormat(Protocol):
    """The encoding of a file: one of FORMATS, a sample rate in Hz, and 1 or 2 channels."""

    @property
    def format(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...


def encode(path: Path, samples: Samples, recording: AudioFormat, bit_rate: int | None) -> None:
    """Write 16 kHz samples in the recording's format and rate, with the same audio in each channel."""
    sound = resample(torch.from_numpy(samples), SAMPLE_RATE, recording.sample_rate).numpy()
    pcm = np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)
    layout = "stereo" if recording.channels == 2 else "mono"
    container_format, reproducible = "ogg" if recording.format == "opus" else None, {"fflags": "+bitexact"}
    with av.open(str(path), "w", format=container_format, options=reproducible) as container:
        stream = container.add_stream(_CODECS[recording.format], rate=recording.sample_rate, layout=layout)
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.repeat(pcm, recording.channels)[None], format="s16", layout=layout)
        frame.sample_rate = recording.sample_rate
        frames = av.AudioResampler(stream.format, layout, recording.sample_rate, stream.frame_size or None)
        for piece in [*frames.resample(frame), *frames.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the output folder and the seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder; created if it does not exist")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same recordings (1)")
    return parser


def write_truth(folder: Path, seed: int, name: str, recordings: Sequence[Any]) -> None:
    """Write truth.json: the seed, and under `name` a list of recordings, which are dataclasses."""
    truth = {"seed": seed, name: [asdict(recording) for recording in recordings]}
    (folder / "truth.json").write_text(json.dumps(truth, ensure_ascii=False, indent=1) + "\n")
