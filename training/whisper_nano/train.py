"""Train the checkpoint on synthesised data.

    python -m training.whisper_nano.train data/training/whisper-nano data/training/whisper-nano/run

Starting from other weights, a fifth of the steps at a fifth of the learning rate is enough to teach something new:

    python -m training.whisper_nano.train … --start serve_app/models/whisper-nano --steps 2500 --learning-rate 3e-4

An interrupted run continues from its last checkpoint, with the same batches.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Subset
from transformers import WhisperForConditionalGeneration

from training.whisper_nano.batches import Batch, Batches, progress
from training.whisper_nano.dataset import SpeechDataset
from training.whisper_nano.losses import Losses, losses
from training.whisper_nano.model import TrainedWhisper, initialise
from training.whisper_nano.tokenizer import TIMESTAMPS, build_config, build_tokenizer, token_id

WARM_UP = 200
AVERAGE_DECAY = 0.999
ATTENTION_WEIGHT = 1.5
STARTED = 0.6
"""The position in the curriculum at which a model with trained weights starts: windows of every length."""


def averaging(average: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
    """Update the averaged weights, quickly at first: they are far better than the last step's."""
    decay = min(AVERAGE_DECAY, (int(count) + 1) / (int(count) + 10))
    torch._foreach_lerp_(average, current, 1 - decay)


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Return the learning rate: a warm-up, then a cosine to a fiftieth."""
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


def attention_weight(progress: float) -> float:
    """Return the weight of attention guidance, which falls to a fifth once attention has settled."""
    return ATTENTION_WEIGHT * (1.0 if progress < 0.6 else max(0.2, 1 - 3 * (progress - 0.6)))


class Trainer:
    """Model, averaged model and optimizer of one run."""

    def __init__(self, run: Path, steps: int, peak: float, seed: int, start: str | None = None) -> None:
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer()
        self.first_timestamp = token_id(self.tokenizer, TIMESTAMPS[0])
        self.model = TrainedWhisper(build_config(self.tokenizer))
        if start is None:
            initialise(self.model, self.first_timestamp)
        else:
            weights = WhisperForConditionalGeneration.from_pretrained(start, dtype=torch.float32).state_dict()
            self.model.whisper.load_state_dict(weights)
        self.average = AveragedModel(self.model, multi_avg_fn=averaging)
        learnt = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in learnt if parameter.dim() > 1], "weight_decay": 0.01},
            {"params": [parameter for parameter in learnt if parameter.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
        self.steps, self._peak, self.seed = steps, peak, seed
        self._learnt, self._path = learnt, run / "checkpoint.pt"
        self.settings = {"steps": steps, "peak": peak, "seed": seed, "start": start}
        self.begin = 0.0 if start is None else STARTED
        self.done = 0

    def resume(self) -> None:
        """Load the run's checkpoint, if there is one. Raises ValueError if it was made with other settings."""
        if not self._path.exists():
            return
        state = torch.load(self._path, weights_only=True)
        if state["settings"] != self.settings:
            raise ValueError(
                f"{self._path} was made with {state['settings']}: use the same settings, or another folder"
            )
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["average"])
        self.average.n_averaged.fill_(state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["step"]

    def save(self) -> None:
        """Replace the run's checkpoint atomically."""
        state = {
            "settings": self.settings,
            "step": self.done,
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, self._path.with_suffix(".new"))
        os.replace(self._path.with_suffix(".new"), self._path)

    def step(self, batch: Batch) -> Losses:
        """Run one step of the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._peak, self.done, self.steps)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.model(batch)
        result = losses(outputs, batch, self.first_timestamp)
        result.total(attention_weight(progress(self.done, self.steps, self.begin))).backward()
        torch.nn.utils.clip_grad_norm_(self._learnt, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.done += 1
        return result


def describe(result: Losses) -> dict[str, float]:
    """Return the figures for the log."""
    return {name: float(value.detach()) for name, value in vars(result).items()}


def train(trainer: Trainer, dataset: SpeechDataset, log_every: int, save_every: int) -> None:
    """Train to the end, with a line of smoothed figures every `log_every` steps."""
    steps = trainer.steps
    batches = Subset(
        Batches(dataset, trainer.tokenizer, steps, trainer.seed, trainer.begin), range(trainer.done, steps)
    )
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    smooth: dict[str, float] = {}
    start, began = time.perf_counter(), trainer.done
    for batch in loader:
        for name, value in describe(trainer.step(batch)).items():
            smooth[name] = smooth.get(name, value) + 0.02 * (value - smooth.get(name, value))
        if trainer.done % log_every == 0:
            pace = (time.perf_counter() - start) / (trainer.done - began)
            parts = " ".join(f"{name} {value:.3f}" for name, value in smooth.items())
            left = f"{pace:.2f} s a step, {pace * (steps - trainer.done) / 60:.0f} minutes left"
            print(f"{trainer.done}/{steps} {parts} | {left}", flush=True)
        if trainer.done % save_every == 0 or trainer.done == steps:
            trainer.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="written by training.whisper_nano.synthesise")
    parser.add_argument("run", type=Path, help="folder of the checkpoint; created if it does not exist")
    parser.add_argument("--steps", type=int, default=13_000, help="total number of steps (13000)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="peak learning rate (0.0015)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", help="checkpoint with initial weights (none)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log-every", type=int, default=100, help="steps (100)")
    parser.add_argument("--save-every", type=int, default=250, help="steps (250)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.run, arguments.steps, arguments.learning_rate, arguments.seed, arguments.start)
    trainer.resume()
    print(f"starting at step {trainer.done} of {arguments.steps}", flush=True)
    train(trainer, SpeechDataset(arguments.data), arguments.log_every, arguments.save_every)
    print(f"done: python -m training.whisper_nano.export {arguments.run} FOLDER writes the checkpoint")


if __name__ == "__main__":
    main()
