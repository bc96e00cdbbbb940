"""Write trained networks as a folder that pyannote.audio's Pipeline.from_pretrained loads.

    python -m training.diarization_nano.export data/training/diarization-nano/run serve_app/models/diarization-nano

Clustering keeps the parameters in that folder, or starts with those of CLUSTERING; `plda` and `tune` improve them.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # before pyannote.audio is imported, which otherwise sends telemetry

import numpy as np
import torch
import yaml
from lightning import __version__ as lightning_version

from serve_app.diarization import nets
from serve_app.diarization.nano import (
    NanoEmbedding,
    NanoModel,
    NanoSegmentation,
    embedding_specifications,
    segmentation_specifications,
)

STEP = 0.2
"""The distance between the starts of two chunks, as a share of a chunk."""
CLUSTERING = {
    "segmentation": {"min_duration_off": 0.5},
    "clustering": {"threshold": 0.3, "Fa": 0.15, "Fb": 10.0},
}


def write_model(model: NanoModel, specifications: Any, folder: Path) -> None:
    """Write a checkpoint as pyannote.audio reads it, with weights in float16."""
    model.specifications = specifications
    checkpoint: dict[str, Any] = {
        "state_dict": {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
        },
        "pytorch-lightning_version": lightning_version,
        "hyper_parameters": {"sample_rate": nets.SAMPLE_RATE, "num_channels": 1},
    }
    model.on_save_checkpoint(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "pytorch_model.bin")


def write_identity(folder: Path, dimension: int) -> None:
    """Write a PLDA without knowledge about speakers; `plda` estimates it."""
    folder.mkdir(parents=True, exist_ok=True)
    zeros, identity = np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32)
    np.savez_compressed(folder / "xvec_transform.npz", mean1=zeros, mean2=zeros, lda=identity)
    np.savez_compressed(folder / "plda.npz", mu=zeros, tr=identity, psi=np.linspace(2, 1, dimension))


def write_config(folder: Path, params: dict[str, Any], step: float = STEP) -> None:
    """Write config.yaml with the tuned parameters."""
    pipeline = {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "segmentation": "$model/segmentation",
            "segmentation_step": step,
            "segmentation_batch_size": 32,
            "embedding": "$model/embedding",
            "embedding_batch_size": 32,
            "embedding_exclude_overlap": True,
            "plda": "$model/plda",
            "clustering": "VBxClustering",
        },
    }
    config = {"dependencies": {"pyannote.audio": "4.0.0"}, "pipeline": pipeline, "params": params}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def export(segmentation: dict[str, Any] | None, embedding: dict[str, Any] | None, folder: Path) -> None:
    """Write the folder; weights of None are random."""
    models = {"segmentation": NanoSegmentation(), "embedding": NanoEmbedding()}
    for name, weights in (("segmentation", segmentation), ("embedding", embedding)):
        if weights is not None:
            models[name].net.load_state_dict(weights)
    write_model(models["segmentation"], segmentation_specifications(), folder / "segmentation")
    write_model(models["embedding"], embedding_specifications(), folder / "embedding")
    write_identity(folder / "plda", nets.DIMENSION)
    if not (folder / "config.yaml").exists():
        write_config(folder, CLUSTERING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", type=Path, help="written by training.diarization_nano.train: embedding.pt, segmentation.pt"
    )
    parser.add_argument("folder", type=Path, help="output folder; created if it does not exist")
    arguments = parser.parse_args()
    weights = {
        name: torch.load(arguments.run / f"{name}.pt", weights_only=True)["average"]
        for name in ("segmentation", "embedding")
    }
    export(weights["segmentation"], weights["embedding"], arguments.folder)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"wrote {arguments.folder}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
