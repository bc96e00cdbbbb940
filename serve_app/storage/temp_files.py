"""Cleaning up temporary files."""

import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path


def sweep(folder: Path, before: datetime) -> int:
    """Delete entries last modified before a time, left by killed processes, and return their count."""
    swept = 0
    for entry in folder.iterdir() if folder.exists() else ():
        with suppress(FileNotFoundError):  # deleted by its own process meanwhile
            if _last_modified(entry) < before.timestamp():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                swept += 1
    return swept


def _last_modified(entry: Path) -> float:
    """Return the latest modification time of a file, or of anything in a folder."""
    return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
