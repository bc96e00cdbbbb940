"""Which waiting windows are given the free rows: policy alone, with the clock handed in."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import Field

from serve_app.options import Strict

WindowT = TypeVar("WindowT")

LEAST_COST_S = 1.0
"""A window is encoded as 30 s however short it is: below this, less sound is no less work."""


class Batching(Strict):
    """How windows share the engine's rows. Can change while the engine runs."""

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
        """Rows that each of so many jobs may hold."""
        if self.max_rows_per_job is not None:
            return self.max_rows_per_job
        return self.max_batch_size if jobs <= 1 else max(1, self.max_batch_size * 3 // 4)


@dataclass(frozen=True)
class WindowRequest:
    """What a window asks for.

    `seconds` of audio stand for its cost. `rows`, at least 1, are decoded side by side for it: beam search
    and best_of take several. `limit` is the most rows its job wants to hold; the smaller of it and
    Batching's cap binds.
    """

    job: str
    seconds: float
    rows: int = 1
    interactive: bool = True
    limit: int | None = None


@dataclass
class _Job(Generic[WindowT]):
    """A job that waits or runs. Its queues hold when each window was queued, oldest first."""

    retries: OrderedDict[WindowT, float] = field(default_factory=OrderedDict)
    fresh: OrderedDict[WindowT, float] = field(default_factory=OrderedDict)
    seconds: float = 0.0  # of sound that waits
    rows: int = 0  # held
    admitted: float = float("-inf")  # when it was last given a row

    @property
    def waits(self) -> bool:
        return bool(self.retries or self.fresh)

    @property
    def next(self) -> WindowT:
        return next(iter(self.retries or self.fresh))

    @property
    def since(self) -> float:
        return min(next(iter(queue.values())) for queue in (self.retries, self.fresh) if queue)


class Scheduler(Generic[WindowT]):
    """Windows that wait for rows, and the rows held by those that were taken.

    Windows are hashed by identity. The clock never runs backwards. Not thread-safe.
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
        """Windows that wait."""
        return len(self._waiting)

    @property
    def rows_in_use(self) -> int:
        """Rows of the windows that were taken and not yet released."""
        return self._rows_in_use

    def add(self, claim: WindowRequest, window: WindowT, now: float, is_retry: bool = False) -> None:
        """Queue a window that doesn't wait yet behind its job's others; `again`, behind its job's retries only.

        Whether `claim.rows` are more than the engine has is for the caller to check: here it isn't an error.
        """
        job = self._jobs.setdefault(claim.job, _Job())
        (job.retries if is_retry else job.fresh)[window] = now
        job.seconds += claim.seconds
        self._waiting[window] = claim

    def discard(self, window: WindowT) -> bool:
        """Drop a window that is no longer wanted; False when it was not waiting."""
        if window not in self._waiting:
            return False
        self._remove_idle_job(self._dequeue(window))
        return True

    @property
    def serves_interactive(self) -> bool:
        """Whether an interactive window holds rows."""
        return any(claim.interactive for claim in self._running.values())

    def schedule(
        self, batching: Batching, now: float, limit: int | None = None, only_interactive: bool = False
    ) -> list[WindowT]:
        """The windows to admit now, `most` at most; each holds its rows until it is released.

        Interactive jobs come before bulk ones and, among those, the one of the highest response ratio
        (Brinch Hansen's HRRN): (waited + cost) / cost, of the job's oldest waiting window and all its waiting
        sound. Short jobs thus go first, and a long one gains on newcomers as it waits. A bulk job without a new
        row for `bulk_patience_s` is ranked as if its next window had just come by itself, as interactive: it
        is not starved, and a backlog that old doesn't turn interactive as a whole.

        A window that needs more rows than are free stops admission until it has them, so that narrow ones
        don't starve it. One wider than its job's cap is admitted while its job holds nothing, one wider than
        the batch while nobody does: none waits for ever, whatever the settings become.
        """
        taken: list[WindowT] = []
        size = batching.max_batch_size
        if self._rows_in_use >= size:
            return taken
        cap = batching.rows_per_job(len(self._jobs))
        ranks = {name: self._rank(job, batching, now) for name, job in self._jobs.items() if self._may_take(job, cap)}
        while ranks and len(taken) != limit:
            name = max(ranks, key=ranks.__getitem__)
            if only_interactive and not ranks[name][0]:
                break
            job = self._jobs[name]
            window = job.next
            if self._rows_in_use + min(self._waiting[window].rows, size) > size:
                break
            self._admit(window, now)
            taken.append(window)
            if self._may_take(job, cap):
                ranks[name] = self._rank(job, batching, now)
            else:
                del ranks[name]
        return taken

    def release(self, window: WindowT) -> None:
        """Free the rows of a window that was taken; one that holds none any more is left alone."""
        claim = self._running.pop(window, None)
        if claim is None:
            return
        self._rows_in_use -= claim.rows
        self._jobs[claim.job].rows -= claim.rows
        self._remove_idle_job(claim)

    def clear(self) -> list[WindowT]:
        """Drop all that wait and return them."""
        windows = list(self._waiting)
        for window in windows:
            self.discard(window)
        return windows

    def _may_take(self, job: _Job[WindowT], cap: int) -> bool:
        """Whether the job's own rows leave room for its next window."""
        if not job.waits:
            return False
        claim = self._waiting[job.next]
        limit = cap if claim.limit is None else min(cap, claim.limit)
        return job.rows == 0 or job.rows + claim.rows <= limit

    def _rank(self, job: _Job[WindowT], batching: Batching, now: float) -> tuple[bool, float, float]:
        """The highest goes next: interactive before bulk, then by response ratio, then the shorter job."""
        claim = self._waiting[job.next]
        waited, cost = now - job.since, max(job.seconds, LEAST_COST_S)
        overdue = now - max(job.since, job.admitted) - batching.bulk_patience_s
        promoted = not claim.interactive and overdue >= 0
        if promoted:
            waited, cost = overdue, max(claim.seconds, LEAST_COST_S)
        return claim.interactive or promoted, (waited + cost) / cost, -cost

    def _admit(self, window: WindowT, now: float) -> None:
        claim = self._dequeue(window)
        job = self._jobs[claim.job]
        job.rows += claim.rows
        job.admitted = now
        self._rows_in_use += claim.rows
        self._running[window] = claim

    def _dequeue(self, window: WindowT) -> WindowRequest:
        claim = self._waiting.pop(window)
        job = self._jobs[claim.job]
        del (job.retries if window in job.retries else job.fresh)[window]
        job.seconds -= claim.seconds
        return claim

    def _remove_idle_job(self, claim: WindowRequest) -> None:
        """Drop a job that neither waits nor runs."""
        job = self._jobs[claim.job]
        if not job.waits and job.rows == 0:
            del self._jobs[claim.job]
