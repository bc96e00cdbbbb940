"""The training data: utterances of many speakers, and noises, from which conversations are composed.

A folder with samples.npy (int16, 16 kHz), speech.npy (bool, 10 ms a frame), noises.npy ((kinds, samples) int16) and
dataset.json.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.diarization_nano.speakers import Speaker
from training.diarization_nano.speech import FRAME, Utterance


@dataclass(frozen=True)
class DatasetSpeaker:
    """A speaker of the dataset: (first frame, frames) of each utterance; see Speaker and SpeakerUtterances.

    `language` has no region.
    """

    timbre: str
    family: str
    language: str
    utterances: tuple[tuple[int, int], ...]
    weight: float


class SpeechDataset:
    """The dataset, loaded onto a device."""

    def __init__(self, folder: Path, device: torch.device, kind: str = "train") -> None:
        content = json.loads((folder / "dataset.json").read_text())
        self.speakers = [
            DatasetSpeaker(
                line["timbre"],
                line["family"],
                line["language"].split("-")[0],
                tuple(map(tuple, line["utterances"])),
                line["weight"],
            )
            for line in content["speakers"]
            if line["kind"] == kind
        ]
        self.samples = torch.from_numpy(np.load(folder / "samples.npy")).to(device)
        self.speech = torch.from_numpy(np.load(folder / "speech.npy")).to(device)
        self.noises = torch.from_numpy(np.load(folder / "noises.npy")).to(device)
        self.device = device


@dataclass(frozen=True)
class SpeakerUtterances:
    """The utterances of one speaker; `kind`: "train" or "dev"; `weight`: relative frequency, usually 1."""

    speaker: Speaker
    kind: str
    weight: float
    utterances: Sequence[Utterance]


def write(folder: Path, spoken: Sequence[SpeakerUtterances], noises: npt.NDArray[np.int16]) -> float:
    """Write a dataset; return its hours."""
    folder.mkdir(parents=True, exist_ok=True)
    speakers: list[dict[str, Any]] = []
    samples: list[npt.NDArray[np.int16]] = []
    speech: list[npt.NDArray[np.bool_]] = []
    first = 0
    for one in spoken:
        spans = []
        for utterance in one.utterances:
            spans.append((first, len(utterance.speech)))
            first += len(utterance.speech)
            samples.append(utterance.samples)
            speech.append(utterance.speech)
        if spans:
            line = {"kind": one.kind, "weight": one.weight, "utterances": spans, **asdict(one.speaker)}
            line["family"] = one.speaker.family
            speakers.append(line)
    np.save(folder / "samples.npy", np.concatenate(samples))
    np.save(folder / "speech.npy", np.concatenate(speech))
    np.save(folder / "noises.npy", noises)
    (folder / "dataset.json").write_text(json.dumps({"frame": FRAME, "speakers": speakers}))
    return first / 100 / 3600
