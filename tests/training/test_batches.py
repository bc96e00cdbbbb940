"""Batches depend only on their step, and training on them lowers the loss."""

import random
from pathlib import Path

import pytest
import torch

from training.whisper_nano.batches import Batch, Batches, curriculum
from training.whisper_nano.dataset import SpeechDataset
from training.whisper_nano.tokenizer import build_tokenizer
from training.whisper_nano.train import Trainer


def test_batches_are_reproducible(small_dataset: SpeechDataset) -> None:
    batches = Batches(small_dataset, build_tokenizer(), 100, seed=3)
    late, again = batches[70], (batches[10], batches[70])[1]
    assert torch.equal(late.features, again.features)
    assert torch.equal(late.labels, again.labels)
    assert late.features.shape[2] == 2 * late.position_labels.shape[1]
    assert late.tokens.shape == late.labels.shape == late.spans.shape[::2]


def test_steps_and_seeds_differ(small_dataset: SpeechDataset) -> None:
    tokenizer = build_tokenizer()
    long = Batches(small_dataset, tokenizer, 10**6, seed=3)  # its first steps are at one point of the curriculum
    assert not torch.equal(long[0].tokens, long[1].tokens)
    assert not torch.equal(long[0].tokens, Batches(small_dataset, tokenizer, 10**6, seed=4)[0].tokens)


def test_window_lengths_grow() -> None:
    rng = random.Random(1)
    early, late = ([curriculum(rng, progress).shapes[0].frames for _ in range(200)] for progress in (0.02, 0.9))
    assert max(early) == 400
    assert max(late) == 3000
    assert sum(late) > 2 * sum(early)


@pytest.mark.slow
def test_learns_and_resumes(small_dataset: SpeechDataset, tmp_path: Path) -> None:
    """Four steps give the same weights as two, a checkpoint and two more; the loss decreases."""
    whole_batch = Batches(small_dataset, build_tokenizer(), 1000, seed=1)[0]
    batch = Batch(*(part[:2] for part in vars(whole_batch).values()))

    def run_steps(trainer: Trainer, count: int) -> list[float]:
        return [float(trainer.step(batch).total(1.0).detach()) for _ in range(count)]

    whole = Trainer(tmp_path, 1000, 3e-3, seed=1)
    totals = run_steps(whole, 4)
    assert totals[-1] < totals[0]
    half = Trainer(tmp_path, 1000, 3e-3, seed=1)
    run_steps(half, 2)
    half.save()
    resumed = Trainer(tmp_path, 1000, 3e-3, seed=1)
    resumed.resume()
    assert resumed.done == 2
    run_steps(resumed, 2)
    for ours, theirs in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    Trainer(tmp_path, 1000, 3e-3, seed=1).save()
    with pytest.raises(ValueError, match="was made with"):
        Trainer(tmp_path, 500, 3e-3, seed=1).resume()
