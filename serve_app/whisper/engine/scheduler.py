"""The scheduler: the order in which waiting windows get free rows. Pure: the caller passes the time."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import Field

from serve_app.schemas.request import StrictModel

WindowT = TypeVar("WindowT")

MIN_COST_S = 1.0
"""Minimum cost of a window in seconds of audio: every window is encoded as 30 s, however short it is."""


class Batching(StrictModel):
    """Batching options. They can be changed while the engine runs."""

    max_batch_size: int = Field(16, ge=1, description="Maximum number of rows decoded together.")
    max_rows_per_job: int | None = Field(
        None,
        ge=1,
        description="Maximum number of rows of a job; null: all rows while it is the only job, else three quarters, "
        "so that a new job gets rows at once.",
    )
    bulk_patience_s: float = Field(
        30.0,
        ge=0,
        description="A bulk job that gets no row for this long is treated as interactive for its next window.",
    )

    def rows_per_job(self, jobs: int) -> int:
        """Return the maximum number of rows per job, given the number of jobs."""
        if self.max_rows_per_job is not None:
            return self.max_rows_per_job
        return self.max_batch_size if jobs <= 1 else max(1, self.max_batch_size * 3 // 4)


@dataclass(frozen=True)
class WindowRequest:
    """The resources a window needs.

    `seconds` of audio are its cost. `rows`: rows decoded in parallel for it, at least 1; beam search and best_of need
    several. `max_rows_per_job`: the limit of its job, if lower than that of `Batching`.
    """

    job: str
    seconds: float
    rows: int = 1
    interactive: bool = True
    max_rows_per_job: int | None = None


@dataclass
class _Job(Generic[WindowT]):
    """A job with waiting or running windows. Its queues map each window to the time it was queued, oldest first."""

    retries: OrderedDict[WindowT, float] = field(default_factory=OrderedDict)
    new: OrderedDict[WindowT, float] = field(default_factory=OrderedDict)
    waiting_seconds: float = 0.0  # of audio
    rows_in_use: int = 0  # by running windows
    last_started: float = float("-inf")  # when a window of it last got rows

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
    """The queue of waiting windows, and the rows that running windows use.

    Windows are hashed by identity. Times never decrease. Not thread-safe.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, _Job[WindowT]] = {}
        self._waiting: dict[WindowT, WindowRequest] = {}
        self._running: dict[WindowT, WindowRequest] = {}
        self._rows_in_use = 0

    def __len__(self) -> int:
        """Return the number of waiting windows."""
        return len(self._waiting)

    @property
    def rows_in_use(self) -> int:
        """Number of rows used by windows that were scheduled and not yet released."""
        return self._rows_in_use

    def add(self, request: WindowRequest, window: WindowT, now: float, is_retry: bool = False) -> None:
        """Queue a window after its job's other windows; with `is_retry`, after its job's other retries only.

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
        """Return whether an interactive window is running."""
        return any(request.interactive for request in self._running.values())

    def schedule(
        self, batching: Batching, now: float, limit: int | None = None, interactive_only: bool = False
    ) -> list[WindowT]:
        """Return the windows to run now, at most `limit`. Each uses its rows until `release`.

        Interactive jobs come before bulk jobs. Within each group, the job with the highest response ratio is next
        (HRRN, Brinch Hansen): (waited + cost) / cost, where `waited` is the waiting time of its oldest window and
        `cost` all its waiting audio. Short jobs go first, and a long job's rank rises while it waits. A bulk job that
        got no row for `bulk_patience_s` is ranked as interactive for its next window only: it is not starved, and a
        large backlog does not become interactive as a whole.

        A window that needs more rows than are free blocks all others until it gets them, so that windows with fewer
        rows do not starve it. A window that needs more rows than its job's limit runs when its job uses none; one that
        needs more rows than the batch has runs when no rows are in use. So every window runs at some time, whatever the
        settings are changed to.
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
            self._start(window, now)
            scheduled.append(window)
            if self._is_within_limit(job, rows_per_job):
                ranks[name] = self._rank(job, batching, now)
            else:
                del ranks[name]
        return scheduled

    def release(self, window: WindowT) -> None:
        """Free the rows of a window. Does nothing if it is not running."""
        request = self._running.pop(window, None)
        if request is None:
            return
        self._rows_in_use -= request.rows
        self._jobs[request.job].rows_in_use -= request.rows
        self._remove_idle_job(request)

    def _is_within_limit(self, job: _Job[WindowT], rows_per_job: int) -> bool:
        """Return whether the job's limit allows its next window."""
        if not job.has_waiting:
            return False
        request = self._waiting[job.next_window]
        limit = rows_per_job if request.max_rows_per_job is None else min(rows_per_job, request.max_rows_per_job)
        return job.rows_in_use == 0 or job.rows_in_use + request.rows <= limit

    def _rank(self, job: _Job[WindowT], batching: Batching, now: float) -> tuple[bool, float, float]:
        """Return the rank of a job's next window, highest first: interactive, then response ratio, then lowest cost."""
        request = self._waiting[job.next_window]
        waited, cost = now - job.waiting_since, max(job.waiting_seconds, MIN_COST_S)
        overdue = now - max(job.waiting_since, job.last_started) - batching.bulk_patience_s
        promoted = not request.interactive and overdue >= 0
        if promoted:
            waited, cost = overdue, max(request.seconds, MIN_COST_S)
        return request.interactive or promoted, (waited + cost) / cost, -cost

    def _start(self, window: WindowT, now: float) -> None:
        request = self._dequeue(window)
        job = self._jobs[request.job]
        job.rows_in_use += request.rows
        job.last_started = now
        self._rows_in_use += request.rows
        self._running[window] = request

    def _dequeue(self, window: WindowT) -> WindowRequest:
        request = self._waiting.pop(window)
        job = self._jobs[request.job]
        del (job.retries if window in job.retries else job.new)[window]
        job.waiting_seconds -= request.seconds
        return request

    def _remove_idle_job(self, request: WindowRequest) -> None:
        """Remove the job of a request if it has no waiting or running windows."""
        job = self._jobs[request.job]
        if not job.has_waiting and job.rows_in_use == 0:
            del self._jobs[request.job]
