"""Conversion of a diarization pipeline's networks from torch checkpoints, which are pickles, to safetensors."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.torch_version import TorchVersion

from serve_app.models.catalogue import EMBEDDING_FILE, SEGMENTATION_FILE

SEGMENTATION, EMBEDDING = "segmentation.safetensors", "embedding.safetensors"
"""The converted networks of a pipeline's folder."""

LICENSES = "THIRD_PARTY_LICENSES"


class _Ignored:
    """Stands for pyannote's description of the task, which the checkpoint contains and nothing here needs."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# The only names in these pickles besides tensors. Nothing of pyannote is imported.
_ALLOWED: list[Any] = [
    TorchVersion,
    *((_Ignored, f"pyannote.audio.core.task.{name}") for name in ("Specifications", "Problem", "Resolution")),
]


def convert_networks(original: Path, folder: Path) -> None:
    """Write the networks' tensors as safetensors, and the licenses."""
    with torch.serialization.safe_globals(_ALLOWED):
        segmentation = torch.load(original / SEGMENTATION_FILE, weights_only=True)["state_dict"]
        embedding = torch.load(original / EMBEDDING_FILE, weights_only=True)
    for tensors, name in ((segmentation, SEGMENTATION), (embedding, EMBEDDING)):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    shutil.copyfile(original / LICENSES, folder / LICENSES)
