"""Batches by step: each is seeded by its number only, so that an interrupted run continues with the same batches."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import WhisperTokenizer

from training.whisper_nano.compose import Composer, Shape
from training.whisper_nano.dataset import SpeechDataset
from training.whisper_nano.targets import IGNORED, SPANS, Targets, position_labels

MAX_POSITIONS = 1500


@dataclass(frozen=True)
class Batch:
    """`rows` windows of T frames, which are T / 2 positions, and L decoder rows.

    features (rows, 80, T); offsets (rows,): the position of the first one; tokens, labels (rows, L); spans (rows, 3, L,
    2), see targets.Sequence.spans; position_labels (rows, T / 2, 4).
    """

    features: torch.Tensor
    offsets: torch.Tensor
    tokens: torch.Tensor
    labels: torch.Tensor
    spans: torch.Tensor
    position_labels: torch.Tensor


@dataclass(frozen=True)
class BatchPlan:
    """The shapes of a batch's windows, all with the same frames, and the share that has earlier text as a prompt."""

    shapes: tuple[Shape, ...]
    prompted: float


def progress(step: int, steps: int, begin: float) -> float:
    """Return the position of a step in the curriculum; the first step is at `begin`."""
    return begin + (1 - begin) * step / steps


def curriculum(rng: random.Random, position: float) -> BatchPlan:
    """Plan a batch at a position between 0 and 1 of the training.

    One utterance in 2-4 s first, then two, then windows of 4-12 s, and more and more of 30 s: half of those contain
    less audio, with nothing after it, as a service sends them.
    """
    hardness = min(0.8, 0.3 + 2 * position)
    if position < 0.12:
        frames, most, prompted = rng.choice([200, 300, 400]), 1 if position < 0.05 else 2, 0.0
        rows = 4800 // frames
    else:
        most, prompted = 99, 0.5
        full = 0.0 if position < 0.3 else 0.08 if position < 0.55 else 0.2 if position < 0.8 else 0.4
        if rng.random() < full:
            frames, rows = 3000, 4
        elif rng.random() < 0.45:
            frames, rows = 1200, 8
        else:
            frames, rows = rng.choice([400, 600, 800]), 12
    shapes = []
    for _ in range(rows):
        longest = rng.choice([1200, 3000]) if frames == 3000 else frames
        sound = longest if rng.random() < 0.5 else rng.randint(min(longest, 100), longest)
        shapes.append(Shape(frames, sound, most, hardness))
    return BatchPlan(tuple(shapes), prompted)


class Batches(Dataset[Batch]):
    """All batches of a run of `steps` steps."""

    def __init__(
        self, dataset: SpeechDataset, tokenizer: WhisperTokenizer, steps: int, seed: int, begin: float = 0.0
    ) -> None:
        self._dataset, self._steps, self._seed, self._begin = dataset, steps, seed, begin
        self._targets = Targets(tokenizer)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        composer = Composer(self._dataset, self._seed * 1_000_003 + step)
        rng = composer.rng
        plan = curriculum(rng, progress(step, self._steps, self._begin))
        windows = [composer.window(shape) for shape in plan.shapes]
        latest = 0 if rng.random() < 0.25 else MAX_POSITIONS - windows[0].features.shape[1] // 2
        offsets = [rng.randint(0, latest) for _ in windows]
        sequences = [
            self._targets.sequence(composer, window, offset, plan.prompted)
            for window, offset in zip(windows, offsets, strict=True)
        ]
        rows, length = len(windows), max(len(sequence.tokens) for sequence in sequences) - 1
        tokens = torch.full((rows, length), self._targets.end)
        labels = torch.full((rows, length), IGNORED)
        spans = torch.zeros(rows, len(SPANS), length, 2, dtype=torch.int32)
        for row, sequence in enumerate(sequences):
            count = len(sequence.tokens) - 1
            tokens[row, :count] = torch.tensor(sequence.tokens[:-1])
            labels[row, :count] = torch.tensor(sequence.labels[1:])
            spans[row, :, :count] = torch.from_numpy(sequence.spans())
        return Batch(
            torch.from_numpy(np.stack([window.features for window in windows])),
            torch.tensor(offsets),
            tokens,
            labels,
            spans,
            torch.from_numpy(np.stack([position_labels(window) for window in windows])),
        )
