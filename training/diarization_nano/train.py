"""Train both networks together on the same composed conversations.

    python -m training.diarization_nano.train data/training/diarization-nano data/training/diarization-nano/run

Runs for `--minutes`, on a GPU if there is one; the learning rate follows the clock. Prints a line every ten seconds.
Every minute it prints the errors on speakers that are not trained on, and writes RUN/embedding.pt and
RUN/segmentation.pt. The same command continues from those weights.
"""

import argparse
import math
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from serve_app.diarization.nets import CHUNK_S, EmbeddingNet, SegmentationNet
from training.diarization_nano import objectives
from training.diarization_nano.cpu_settings import flush_denormals
from training.diarization_nano.dataset import DatasetSpeaker, SpeechDataset
from training.diarization_nano.plan import Planner
from training.diarization_nano.render import Batch, Packed, pack, render

WARM_UP = 0.02
"""The share of the run in which the learning rate increases."""
AVERAGE_DECAY = 0.998
POOL_SHARE = 0.5
"""Speakers in a batch, as a share of its windows: each appears about four times."""


def averaging(average: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
    """Update the averaged weights, quickly at first; counters are copied."""
    if not average[0].is_floating_point():
        torch._foreach_copy_(average, current)
        return
    decay = min(AVERAGE_DECAY, (int(count) + 1) / (int(count) + 10))
    torch._foreach_lerp_(average, current, 1 - decay)


def learning_rate(peak: float, progress: float) -> float:
    """Return the learning rate: a warm-up, then a cosine to nearly zero."""
    return peak * min(1.0, progress / WARM_UP + 0.01) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))


class Windows(Dataset[Packed]):
    """Planned batches of windows, each seeded by its number only."""

    def __init__(self, speakers: list[DatasetSpeaker], rows: int, seed: int) -> None:
        self._planner, self._rows, self._seed = Planner(speakers, CHUNK_S), rows, seed

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, step: int) -> Packed:
        rng = random.Random(self._seed * 1_000_003 + step)
        pool = self._planner.speaker_pool(rng, max(4, round(POOL_SHARE * self._rows)))
        return pack([self._planner.plan_window(rng, pool) for _ in range(self._rows)])


class Recordings(Dataset[Batch]):
    """The same windows as audio: without a GPU, the planning processes also render it."""

    def __init__(self, windows: Windows, dataset: SpeechDataset) -> None:
        self._windows, self._dataset = windows, dataset

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, step: int) -> Batch:
        torch.manual_seed(step)
        return render(self._dataset, self._windows[step], CHUNK_S)


class NetworkTrainer:
    """One network, its averaged weights, and its optimizer."""

    def __init__(self, net: nn.Module, path: Path, device: torch.device, peak: float) -> None:
        self.net, self._path, self._peak = net, path, peak
        if path.exists():
            net.load_state_dict(torch.load(path, weights_only=True)["average"])
        net.to(device)
        self.average = AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)
        self._optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)

    def step(self, loss: torch.Tensor, progress: float) -> None:
        """Run one step of the optimizer."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._peak, progress)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.average.update_parameters(self.net)

    def save(self) -> None:
        """Replace the weights file atomically."""
        weights = {name: tensor.cpu() for name, tensor in self.average.module.state_dict().items()}
        torch.save({"average": weights}, self._path.with_suffix(".new"))
        os.replace(self._path.with_suffix(".new"), self._path)


@dataclass(frozen=True)
class Settings:
    """Settings of a run: `rows` windows a step, `peak` learning rate, `seconds` of training, planning processes."""

    rows: int
    peak: float
    seconds: float
    seed: int
    workers: int


class Trainer:
    """Trains both networks."""

    def __init__(self, dataset: SpeechDataset, run: Path, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self.dataset, self.settings = dataset, settings
        self.embedding_net, self.segmentation_net = EmbeddingNet(), SegmentationNet()
        self.embedding = NetworkTrainer(self.embedding_net, run / "embedding.pt", dataset.device, settings.peak)
        self.segmentation = NetworkTrainer(
            self.segmentation_net, run / "segmentation.pt", dataset.device, settings.peak
        )

    def step(self, batch: Batch, progress: float) -> torch.Tensor:
        """Run one step of each network; return their losses, on the device."""
        with torch.no_grad():
            features = self.embedding_net.features(batch.samples)
        embedding, segmentation = self.embedding_loss(features, batch), self.segmentation_loss(features, batch)
        self.embedding.step(embedding, progress)
        self.segmentation.step(segmentation, progress)
        return torch.stack([embedding.detach(), segmentation.detach()])

    def embedding_loss(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.dataset.device.type, torch.bfloat16):
            frames = self.embedding_net.frames(features)
        usable = objectives.has_enough_speech(batch.speaking, batch.identities)
        embeddings = self.embedding_net.pooled(frames.float(), objectives.masks(batch.speaking, vary=True))
        return objectives.contrastive_loss(embeddings[usable], batch.identities[usable])

    def segmentation_loss(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.dataset.device.type, torch.bfloat16):
            scores = self.segmentation_net.scores(features)
        return objectives.segmentation_loss(scores, batch.speaking)

    @torch.no_grad()
    def errors(self, dataset: SpeechDataset, batches: int, rows: int = 64) -> tuple[float, float]:
        """Return the averaged weights' equal error rate and diarization error rate within chunks, on a dataset."""
        embedding, segmentation = self.embedding.average.module.eval(), self.segmentation.average.module.eval()
        windows = Windows(dataset.speakers, rows, 7)
        errors, embeddings, identities = [], [], []
        with torch.random.fork_rng(devices=[0] if dataset.device.type == "cuda" else []):
            torch.manual_seed(5)
            for number in range(batches):
                batch = render(dataset, windows[number], CHUNK_S)
                errors.append(objectives.segmentation_error(segmentation(batch.samples), batch.speaking))
                usable = objectives.has_enough_speech(batch.speaking, batch.identities)
                embeddings.append(embedding(batch.samples, objectives.masks(batch.speaking, vary=False))[usable])
                identities.append(batch.identities[usable])
        embedding.train()
        segmentation.train()
        return objectives.equal_error_rate(torch.cat(embeddings), torch.cat(identities)), sum(errors) / len(errors)


def train(trainer: Trainer, dev: SpeechDataset, log_every_s: float, save_every_s: float) -> None:
    """Train until the time is over."""
    settings = trainer.settings
    windows = Windows(trainer.dataset.speakers, settings.rows, settings.seed)
    on_gpu = trainer.dataset.device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        windows if on_gpu else Recordings(windows, trainer.dataset),
        batch_size=None,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        worker_init_fn=flush_denormals,
    )
    losses: list[torch.Tensor] = []
    steps = 0
    started_at = logged_at = saved_at = time.perf_counter()
    for windows_or_sound in loader:
        progress = (time.perf_counter() - started_at) / settings.seconds
        if progress >= 1:
            break
        batch = render(trainer.dataset, windows_or_sound, CHUNK_S) if on_gpu else windows_or_sound
        losses.append(trainer.step(batch, progress))
        steps += 1
        now = time.perf_counter()
        if now - logged_at > log_every_s:
            embedding, segmentation = torch.stack(losses).mean(0).tolist()  # waits for the device
            now = time.perf_counter()
            pace = (now - started_at) / steps * 1000
            figures = f"{pace:.0f} ms each, losses {embedding:.3f} {segmentation:.3f}"
            print(f"{progress:4.0%} {steps} steps, {figures}", flush=True)
            losses, logged_at = [], now
        if now - saved_at > save_every_s:
            trainer.embedding.save()
            trainer.segmentation.save()
            pair_error, chunk_error = trainer.errors(dev, 2)
            print(f"     errors on other speakers: pairs {pair_error:.1%}, chunks {chunk_error:.1%}", flush=True)
            saved_at = time.perf_counter()
    trainer.embedding.save()
    trainer.segmentation.save()
    pair_error, chunk_error = trainer.errors(dev, 4)
    print(f"{steps} steps; errors on other speakers: pairs {pair_error:.1%}, chunks {chunk_error:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="written by training.diarization_nano.synthesise")
    parser.add_argument("run", type=Path, help="folder of the weights; created if it does not exist")
    parser.add_argument("--minutes", type=float, default=8.0, help="length of the run (8, enough on a fast GPU)")
    parser.add_argument("--rows", type=int, default=256, help="number of 10 s windows in a step (256)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate (0.002)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--workers", type=int, default=min(8, (os.cpu_count() or 2) // 2), help="number of planning processes"
    )
    parser.add_argument("--threads", type=int, default=1, help="number of threads on a CPU (1)")
    parser.add_argument("--log-every", type=float, default=10, help="seconds (10)")
    parser.add_argument("--save-every", type=float, default=60, help="seconds (60)")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True
    flush_denormals()
    torch.set_num_threads(arguments.threads)
    settings = Settings(
        arguments.rows, arguments.learning_rate, arguments.minutes * 60, arguments.seed, arguments.workers
    )
    dataset, dev = SpeechDataset(arguments.data, device), SpeechDataset(arguments.data, device, "dev")
    trainer = Trainer(dataset, arguments.run, settings)
    print(f"{len(dataset.speakers)} voices, {arguments.minutes:g} minutes on {device}", flush=True)
    train(trainer, dev, arguments.log_every, arguments.save_every)


if __name__ == "__main__":
    main()
