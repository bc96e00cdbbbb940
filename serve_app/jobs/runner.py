"""Running the asynchronous jobs: one run of each at a time, anywhere, and again when it was lost.

A run is a lease: the manager that claimed the job renews it while the run goes on. A job whose lease is over is
claimed anew, and whatever the old run still reports comes too late, for the number of attempts has grown.
"""

import asyncio
import logging
from asyncio import Task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol

from serve_app.errors import InvalidRequest, NotDelivered, ServiceError, Unavailable
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.tables import UNREADABLE
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.transcript import Transcript
from serve_app.settings import JobSettings

RETRY_DELAY_S = 0.5
"""Wait before the second run of a job; doubled for each further one, up to"""

MAX_RETRY_DELAY_S = 60.0

_DOUBLINGS = 10  # whatever the number of runs, a float can hold the delay

MAX_RUNS = 100
"""A job whose managers die this often fails: perhaps it is what kills them."""

RENEWALS = 3
"""In the time of a lease: one may fail."""

Run = Callable[[Job], Awaitable[Transcript]]

log = logging.getLogger(__name__)


class Manager(Protocol):
    """The interface of the manager that the runner uses."""

    async def end(self, job: Job, state: JobState, error: JobError | None, transcript: Transcript | None) -> None: ...

    def told(self, job: Job | None) -> None: ...


class Runner:
    """Claims jobs for `holder`, runs them and settles their runs. `run`: cancelling it must stop the work."""

    def __init__(self, settings: JobSettings, store: JobStore, run: Run, holder: str, manager: Manager) -> None:
        self._settings = settings
        self._store = store
        self._run = run
        self._holder = holder
        self._manager = manager
        self._runs: dict[str, int] = {}  # the attempt of each job that runs here
        self._dispatcher: Dispatcher[Job, Transcript] = Dispatcher(
            self._take, self._do, self._settle, settings.max_running
        )
        self._lease = timedelta(seconds=settings.lease_s)
        self._closing = asyncio.Event()
        self._keeper: Task[None] | None = None

    async def start(self) -> None:
        """Take up what the process before this one has left, and begin to run jobs."""
        await self._recover()
        self._dispatcher.start()
        self._keeper = asyncio.create_task(self._renew_leases())

    async def close(self) -> None:
        """Stop. Jobs that were running go back into the queue, and this run isn't counted."""
        self._closing.set()
        await self._dispatcher.close()
        if self._keeper is not None:
            await self._keeper

    def wake(self, delay_s: float = 0.0) -> None:
        """Look for jobs to run, now or when one will be due."""
        self._dispatcher.wake(delay_s)

    async def stop(self, job_id: str) -> None:
        """End a job's run, if it runs here."""
        await self._dispatcher.stop(job_id)

    async def _take(self) -> Job | None:
        now = _now()
        job = await self._store.claim(self._holder, now, now + self._lease)
        self._manager.told(job)
        return job

    async def _do(self, job: Job) -> Transcript:
        self._runs[job.id] = job.attempts
        if job.request == UNREADABLE:
            log.error("job %s was stored by another version of the service: its request can't be read", job.id)
            raise InvalidRequest(
                "the request was stored by another version of the service and can't be read: submit it again",
                "request",
                "unreadable",
            )
        return await self._run(job)

    async def _settle(self, job: Job, run: Task[Transcript]) -> None:
        if self._runs.get(job.id) == job.attempts:
            del self._runs[job.id]
        if not run.cancelled() and run.exception() is None:
            await self._manager.end(job, JobState.SUCCEEDED, None, run.result())
        elif run.cancelled() and self._closing.is_set():
            await self._requeue(job, 0.0)
        else:
            failure = interrupted() if run.cancelled() else run.exception()
            assert failure is not None
            await self._retry_or_fail(job, failure)

    async def _retry_or_fail(self, job: Job, failure: BaseException) -> None:
        if not isinstance(failure, ServiceError):
            log.error("job %s, run %d", job.id, job.attempts, exc_info=failure)
        error = JobError.of(failure)
        # As it is now: a block that the run has kept has reset the losses.
        present = await self._store.get(job.id)
        if present is None or present.attempts != job.attempts:
            return
        # What was never reached says nothing of the job; what was lost under it may be the job's doing.
        lost = isinstance(failure, Unavailable)
        failures = present.failures + (not lost)
        losses = present.losses + (lost and not isinstance(failure, NotDelivered))
        over = failures >= self._settings.max_attempts or losses >= self._settings.max_losses
        if error.status < 500 or over:
            await self._manager.end(job, JobState.FAILED, error, None)
            return
        delay = min(RETRY_DELAY_S * 2 ** min(failures + losses - 1, _DOUBLINGS), MAX_RETRY_DELAY_S)
        await self._requeue(job, delay, failures, losses)

    async def _requeue(self, job: Job, delay_s: float, failures: int | None = None, losses: int | None = None) -> None:
        now = _now()
        self._manager.told(
            await self._store.requeue(
                job,
                now,
                now + timedelta(seconds=delay_s),
                job.failures if failures is None else failures,
                job.losses if losses is None else losses,
            )
        )
        self._dispatcher.wake(delay_s)

    async def _renew_leases(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.lease_s / RENEWALS):
                    await self._closing.wait()
                    return
            try:
                runs = dict(self._runs)
                held = await self._store.renew(runs, self._holder, _now() + self._lease)
                # Ended, or another manager's by now.
                over = [job_id for job_id in runs.keys() - held if self._runs.get(job_id) == runs[job_id]]
                await asyncio.gather(*map(self._dispatcher.stop, over))
                await self._recover()
            except Exception:
                log.exception("could not renew the leases of running jobs; tried again")

    async def _recover(self) -> None:
        """See to jobs that are said to be running, but by nobody: another run, or failed."""
        stranded = await self._store.stranded(self._holder, _now())
        here = await self._dispatcher.ids()
        for job in stranded:
            if job.id in here:
                continue
            if job.attempts >= MAX_RUNS:
                await self._manager.end(job, JobState.FAILED, JobError.of(interrupted()), None)
            else:  # its manager was lost, which says nothing of the job
                await self._requeue(job, 0.0)


def interrupted() -> Unavailable:
    """Return the error of a job whose process was lost."""
    return Unavailable("interrupted: the service stopped while the job ran", None, "interrupted")


def _now() -> datetime:
    return datetime.now(UTC)
