"""In-process notifications of changes of jobs."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class JobNotifier:
    """Notifies the subscribers of a job of its changes in this process."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[asyncio.Event]] = {}

    def notify(self, job_id: str) -> None:
        """Notify all subscribers of a job."""
        for changed in self._subscribers.get(job_id, ()):
            changed.set()

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """Return an asyncio event that is set at the job's next change."""
        changed = asyncio.Event()
        self._subscribers.setdefault(job_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._subscribers[job_id].discard(changed)
            if not self._subscribers[job_id]:
                del self._subscribers[job_id]
