"""Conversion of a diarization pipeline's networks from torch checkpoints, which are pickles, to safetensors."""

import shutil
from pathlib import Path
from typing import Any

from serve_app.models.catalogue import EMBEDDING, EMBEDDING_FILE, LICENSES, SEGMENTATION, SEGMENTATION_FILE

_IGNORED = [f"pyannote.audio.core.task.{name}" for name in ("Specifications", "Problem", "Resolution")]
"""pyannote's description of the task, which the checkpoint contains and nothing here needs."""


class _Ignored:
    """Stands for these classes: nothing of pyannote is imported."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def convert_networks(original: Path, folder: Path) -> None:
    """Write the networks' tensors as safetensors, and the licenses.

    Raises pickle.UnpicklingError for a checkpoint that contains anything besides tensors and the ignored classes.
    """
    # Processes that only deploy the service resolve models too, and need no torch.
    import torch
    from safetensors.torch import save_file
    from torch.torch_version import TorchVersion

    with torch.serialization.safe_globals([TorchVersion, *((_Ignored, name) for name in _IGNORED)]):
        segmentation = torch.load(original / SEGMENTATION_FILE, weights_only=True)["state_dict"]
        embedding = torch.load(original / EMBEDDING_FILE, weights_only=True)
    for tensors, name in ((segmentation, SEGMENTATION), (embedding, EMBEDDING)):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    shutil.copyfile(original / LICENSES, folder / LICENSES)
