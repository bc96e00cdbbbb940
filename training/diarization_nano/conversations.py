"""Whole conversations, on which clustering is tuned."""

import random
from collections.abc import Iterator

import numpy as np
import torch

from training.diarization_nano.dataset import SpeechDataset
from training.diarization_nano.plan import Planner
from training.diarization_nano.render import Batch, pack, render


def conversations(dataset: SpeechDataset, count: int, seed: int, longest: float = 300.0) -> Iterator[Batch]:
    """Yield `count` conversations of a minute to `longest` seconds with at least two speakers, each a batch of one."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    while count:
        # Whole seconds: Fourier transforms are many times slower for lengths with large prime factors.
        seconds = round(np.exp(rng.uniform(np.log(60), np.log(longest))))
        planner = Planner(dataset.speakers, seconds)
        batch = render(dataset, pack([planner.plan_window(rng, planner.speaker_pool(rng, 40))]), seconds)
        if batch.speaking.any(2).sum() >= 2:
            count -= 1
            yield batch
