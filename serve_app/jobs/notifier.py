"""Waiting for something to happen to a job."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class JobNotifier:
    """Wakes those who wait for a job when something has happened to it, in this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def notify(self, job_id: str) -> None:
        """Something has happened."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when something happens from now on."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
