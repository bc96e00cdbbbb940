"""The folder of temporary files."""

import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path


def sweep(folder: Path, before: datetime) -> int:
    """Delete what was last written before a time: processes that were killed left it. How many entries."""
    swept = 0
    for entry in folder.iterdir() if folder.exists() else ():
        with suppress(FileNotFoundError):  # its process ended meanwhile, and cleaned up
            if _written(entry) < before.timestamp():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                swept += 1
    return swept


def _written(entry: Path) -> float:
    """Return the latest modification time of anything in a folder."""
    return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
