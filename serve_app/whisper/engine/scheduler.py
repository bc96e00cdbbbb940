"""The scheduling policy: the order in which waiting windows get free rows. Pure: the caller passes the time."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import Field

from serve_app.schemas.request import StrictModel

WindowT = TypeVar("WindowT")

MIN_COST_S = 1.0
"""The least cost of a window in seconds of audio: every window is encoded as 30 s, however short it is."""


class Batching(StrictModel):
    """Options of batching. They can change while the engine runs."""

    max_batch_size: int = Field(16, ge=1, description="Rows decoded together.")
    max_rows_per_job: int | None = Field(
        None,
        ge=1,
        description="Rows a job may hold; null: all while it is alone, "
        "else three quarters, so that a newcomer finds one free.",
    )
    bulk_patience_s: float = Field(
        30.0, ge=0, description="A bulk job that is given no row for this long counts as interactive for its next one."
    )

    def rows_per_job(self, jobs: int) -> int:
        """Return the number of rows each job may use when there are this many jobs."""
        if self.max_rows_per_job is not None:
            return self.max_rows_per_job
        return self.max_batch_size if jobs <= 1 else max(1, self.max_batch_size * 3 // 4)


@dataclass(frozen=True)
class WindowRequest:
    """The resources a window needs.

    `seconds` of audio measure its cost. `rows`, at least 1, are decoded side by side for it: beam search and best_of
    need several. `limit`: the most rows its job may use, if lower than the limit of `Batching`.
    """

    job: str
    seconds: float
    rows: int = 1
    interactive: bool = True
    max_rows_per_job: int | None = None


@dataclass
class _Job(Generic[WindowT]):
    """A job with waiting or running windows. Its queues map each window to when it was queued, oldest first."""

    retries: OrderedDict[WindowT, float] = field(default_factory=OrderedDict)
    new: OrderedDict[WindowT, float] = field(default_factory=OrderedDict)
    waiting_seconds: float = 0.0  # of sound that waits
    rows_in_use: int = 0  # held
    last_admitted: float = float("-inf")  # when it was last given a row

    @property
    def has_waiting(self) -> bool:
        return bool(self.retries or self.new)

    @property
    def next_window(self) -> WindowT:
        return next(iter(self.retries or self.new))

    @property
    def waiting_since(self) -> float:
        return min(next(iter(queue.values())) for queue in (self.retries, self.new) if queue)


class Scheduler(Generic[WindowT]):
    """The queue of waiting windows, and the rows that running ones use.

    Windows are hashed by identity. Times never decrease. Not thread-safe.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, _Job[WindowT]] = {}
        self._waiting: dict[WindowT, WindowRequest] = {}
        self._running: dict[WindowT, WindowRequest] = {}
        self._rows_in_use = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> int:
        """Number of waiting windows."""
        return len(self._waiting)

    @property
    def rows_in_use(self) -> int:
        """Number of rows used by windows that were scheduled and not yet released."""
        return self._rows_in_use

    def add(self, request: WindowRequest, window: WindowT, now: float, is_retry: bool = False) -> None:
        """Queue a window behind its job's others; with `is_retry`, behind its job's other retries only.

        The caller checks that the engine has enough rows.
        """
        job = self._jobs.setdefault(request.job, _Job())
        (job.retries if is_retry else job.new)[window] = now
        job.waiting_seconds += request.seconds
        self._waiting[window] = request

    def discard(self, window: WindowT) -> bool:
        """Remove a waiting window. Return False if it was not waiting."""
        if window not in self._waiting:
            return False
        self._remove_idle_job(self._dequeue(window))
        return True

    @property
    def is_serving_interactive(self) -> bool:
        """Whether an interactive window is running."""
        return any(request.interactive for request in self._running.values())

    def schedule(
        self, batching: Batching, now: float, limit: int | None = None, interactive_only: bool = False
    ) -> list[WindowT]:
        """Return the windows to run now, at most `limit`. Each uses its rows until it is released.

        Interactive jobs come before bulk jobs. Among each, the job with the highest response ratio is next (Brinch
        Hansen's HRRN): (waited + cost) / cost, where `waited` is the wait of its oldest window and `cost` all its
        waiting audio. Short jobs go first, and a long job gains on newcomers while it waits. A bulk job that got no row
        for `bulk_patience_s` is ranked as interactive for its next window alone: it is not starved, and an old backlog
        does not become interactive as a whole.

        A window that needs more rows than are free blocks all others until it has them, so that windows with fewer
        rows do not starve it. A window with more rows than its job's limit runs while its job uses none, one with more
        rows than the batch while nobody does: no window waits for ever, whatever the settings become.
        """
        scheduled: list[WindowT] = []
        size = batching.max_batch_size
        if self._rows_in_use >= size:
            return scheduled
        rows_per_job = batching.rows_per_job(len(self._jobs))
        ranks = {
            name: self._rank(job, batching, now)
            for name, job in self._jobs.items()
            if self._is_within_limit(job, rows_per_job)
        }
        while ranks and len(scheduled) != limit:
            name = max(ranks, key=ranks.__getitem__)
            if interactive_only and not ranks[name][0]:
                break
            job = self._jobs[name]
            window = job.next_window
            if self._rows_in_use + min(self._waiting[window].rows, size) > size:
                break
            self._admit(window, now)
            scheduled.append(window)
            if self._is_within_limit(job, rows_per_job):
                ranks[name] = self._rank(job, batching, now)
            else:
                del ranks[name]
        return scheduled

    def release(self, window: WindowT) -> None:
        """Free the rows of a running window. Does nothing for one that is not running."""
        request = self._running.pop(window, None)
        if request is None:
            return
        self._rows_in_use -= request.rows
        self._jobs[request.job].rows_in_use -= request.rows
        self._remove_idle_job(request)

    def clear(self) -> list[WindowT]:
        """Remove and return all waiting windows."""
        windows = list(self._waiting)
        for window in windows:
            self.discard(window)
        return windows

    def _is_within_limit(self, job: _Job[WindowT], rows_per_job: int) -> bool:
        """Return whether the job's limit allows its next window."""
        if not job.has_waiting:
            return False
        request = self._waiting[job.next_window]
        limit = rows_per_job if request.max_rows_per_job is None else min(rows_per_job, request.max_rows_per_job)
        return job.rows_in_use == 0 or job.rows_in_use + request.rows <= limit

    def _rank(self, job: _Job[WindowT], batching: Batching, now: float) -> tuple[bool, float, float]:
        """Return the rank of a job's next window; the highest is next: interactive, then response ratio, then cost."""
        request = self._waiting[job.next_window]
        waited, cost = now - job.waiting_since, max(job.waiting_seconds, MIN_COST_S)
        overdue = now - max(job.waiting_since, job.last_admitted) - batching.bulk_patience_s
        promoted = not request.interactive and overdue >= 0
        if promoted:
            waited, cost = overdue, max(request.seconds, MIN_COST_S)
        return request.interactive or promoted, (waited + cost) / cost, -cost

    def _admit(self, window: WindowT, now: float) -> None:
        request = self._dequeue(window)
        job = self._jobs[request.job]
        job.rows_in_use += request.rows
        job.last_admitted = now
        self._rows_in_use += request.rows
        self._running[window] = request

    def _dequeue(self, window: WindowT) -> WindowRequest:
        request = self._waiting.pop(window)
        job = self._jobs[request.job]
        del (job.retries if window in job.retries else job.new)[window]
        job.waiting_seconds -= request.seconds
        return request

    def _remove_idle_job(self, request: WindowRequest) -> None:
        """Remove a job without waiting or running windows."""
        job = self._jobs[request.job]
        if not job.has_waiting and job.rows_in_use == 0:
            del self._jobs[request.job]
