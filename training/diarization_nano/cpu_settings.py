"""What makes a CPU faster."""

import torch

from serve_app.whisper.model.malloc import keep_freed_memory


def flush_denormals(worker: int = 0) -> None:
    """For a process that does nothing but train: the first argument is for a data loader's.

    Echoes fade into denormals, with which a CPU is five times as slow; and memory just freed is soon asked for again.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
