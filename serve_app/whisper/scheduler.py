"""Which windows form the next batch, and when: policy alone, with the clock handed in."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from pydantic import Field

from serve_app.options import Strict

WindowT = TypeVar("WindowT")


class Batching(Strict):
    """How windows are batched. Can change while the engine runs."""

    max_batch_size: int = Field(16, ge=1, description="Windows decoded together.")
    batch_wait_timeout_s: float = Field(
        0.01, ge=0, description="An idle engine waits this long after the first window for others to join it."
    )


class Scheduler(Generic[WindowT]):
    """Waiting windows: in order within a job, jobs in turn.

    A short recording therefore shares the next batch with a long one, instead of waiting behind it.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, deque[WindowT]] = OrderedDict()
        self._count = 0
        self._since = 0.0

    def __len__(self) -> int:
        return self._count

    def add(self, job: str, window: WindowT, now: float) -> None:
        """Queue a window behind its job's others."""
        if not self._count:
            self._since = now
        self._jobs.setdefault(job, deque()).append(window)
        self._count += 1

    def discard(self, job: str, window: WindowT) -> bool:
        """Drop a window that is no longer wanted; False when it was not waiting."""
        queue = self._jobs.get(job, deque())
        try:
            queue.remove(window)
        except ValueError:
            return False
        self._count -= 1
        if not queue:
            del self._jobs[job]
        return True

    def delay(self, batching: Batching, idle: bool, now: float) -> float | None:
        """Seconds until the next batch should start, 0 for at once, None while nothing waits.

        Only an engine that was `idle` waits for company: while it was busy, windows gathered anyway.
        """
        if not self._count:
            return None
        if not idle or self._count >= batching.max_batch_size:
            return 0.0
        return max(0.0, self._since + batching.batch_wait_timeout_s - now)

    def take(self, size: int) -> list[WindowT]:
        """The next batch, of at most `size` windows: one of each job in turn until it is full."""
        batch: list[WindowT] = []
        while self._jobs and len(batch) < size:
            job, queue = self._jobs.popitem(last=False)
            batch.append(queue.popleft())
            if queue:
                self._jobs[job] = queue
        self._count -= len(batch)
        return batch
