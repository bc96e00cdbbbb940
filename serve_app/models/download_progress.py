"""Lines of progress while a download fills a folder."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Report = Callable[[str], None]
"""Receives a line of progress."""

_POLL_S = 0.5


@contextmanager
def report_progress(name: str, source: str, folder: Path, total: int, report: Report) -> Iterator[None]:
    """Report each further tenth of `total` bytes that is in the folder, until the block ends."""
    report(f"{name}: downloading {total / 1e6:.0f} MB: {source}")
    ended = threading.Event()

    def watch() -> None:
        tenths = 0
        while not ended.wait(_POLL_S):
            done = 0
            for path in folder.rglob("*"):
                with suppress(OSError):  # it has been moved
                    done += path.stat().st_size if path.is_file() else 0
            if total and (now := min(10, 10 * done // total)) > tenths:
                tenths = now
                report(f"{name}: {min(done, total) / 1e6:.0f} of {total / 1e6:.0f} MB")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
