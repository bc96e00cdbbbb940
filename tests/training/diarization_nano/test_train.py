"""Both networks learn, and are exported as a folder that pyannote.audio loads without running code from it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pyannote.audio.core.task import Problem, Resolution, Specifications

from serve_app.diarization import nets
from serve_app.diarization.pyannote_pipeline import load_pyannote
from serve_app.models import model_source
from training.diarization_nano.dataset import SpeechDataset
from training.diarization_nano.export import export
from training.diarization_nano.train import Recordings, Settings, Trainer, Windows, learning_rate, train

SHIPPED = Path(model_source("diarization-nano"))


@pytest.mark.slow
def test_training_lowers_the_losses_and_resumes(tones: SpeechDataset, tmp_path: Path) -> None:
    settings = Settings(rows=4, peak=2e-3, seconds=2.0, seed=1, workers=0)
    trainer = Trainer(tones, tmp_path, settings)
    batch = Recordings(Windows(tones.speakers, 4, 1), tones)[0]
    torch.manual_seed(0)
    losses = [trainer.step(batch, 0.1) for _ in range(6)]
    assert (losses[-1] < losses[0]).all()
    trainer.embedding.save()
    trainer.segmentation.save()
    again = Trainer(tones, tmp_path, settings)
    for name, weights in again.segmentation_net.state_dict().items():
        assert torch.equal(weights, trainer.segmentation.average.module.state_dict()[name])


def test_time_limit(tones: SpeechDataset, tmp_path: Path) -> None:
    trainer = Trainer(tones, tmp_path, Settings(rows=2, peak=1e-3, seconds=0.1, seed=1, workers=0))
    trainer.errors = lambda dataset, batches: (0.5, 0.5)  # type: ignore[method-assign]
    train(trainer, tones, log_every_s=60, save_every_s=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embedding.pt", "segmentation.pt"]


def test_errors_are_between_0_and_1(tones: SpeechDataset, tmp_path: Path) -> None:
    trainer = Trainer(tones, tmp_path, Settings(rows=2, peak=1e-3, seconds=1, seed=1, workers=0))
    pair_error, chunk_error = trainer.errors(tones, batches=1, rows=6)
    assert 0 <= pair_error <= 1
    assert chunk_error > 0


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(1.0, progress) for progress in np.linspace(0, 1, 101)]
    assert rates[0] < 0.05
    assert 0.95 < max(rates) <= 1
    assert rates[-1] < 0.02
    assert all(not math.isnan(rate) for rate in rates)


def test_exported_pipeline_equals_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(2)
    segmentation, embedding = nets.SegmentationNet().eval(), nets.EmbeddingNet().eval()
    export(segmentation.state_dict(), embedding.state_dict(), tmp_path)
    pipeline = load_pyannote(str(tmp_path), None)
    sound, masks = torch.randn(2, 1, 160_000) * 0.1, (torch.rand(2, 3, 250) > 0.5).float()
    with torch.inference_mode():
        scores = pipeline._segmentation.model(sound)
        assert torch.allclose(scores, segmentation(sound[:, 0]), atol=0.02)  # weights in float16
        vectors = pipeline._embedding(sound, masks=masks)
        assert np.allclose(vectors, embedding(sound[:, 0], masks).numpy(), atol=0.02)
        assert np.allclose(vectors[:, 1], pipeline._embedding(sound, masks=masks[:, 1]), atol=1e-5)


def test_shipped_checkpoints_have_only_tensors() -> None:
    for name in ("segmentation", "embedding"):
        with torch.serialization.safe_globals([Specifications, Problem, Resolution]):
            checkpoint = torch.load(SHIPPED / name / "pytorch_model.bin", weights_only=True)
        assert checkpoint["pyannote.audio"]["architecture"]["module"] == "serve_app.diarization.nano"
        assert all(weights.isfinite().all() for weights in checkpoint["state_dict"].values())


def test_shipped_folder_is_small_and_tuned() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 10_000_000
    params = yaml.safe_load((SHIPPED / "config.yaml").read_text())["params"]
    assert params["clustering"].keys() == {"threshold", "Fa", "Fb"}
