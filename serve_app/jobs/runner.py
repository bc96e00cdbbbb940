"""Running asynchronous jobs: one run of a job at a time among all managers, retried when it is lost.

A run holds a lease: the manager that claimed the job renews it while the run goes on. A job whose lease has expired
is claimed again; reports of the old run are then ignored, as the number of attempts has grown.
"""

import asyncio
import logging
from asyncio import Task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from serve_app.errors import InvalidRequest, NotDelivered, ServiceError, Unavailable
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import UNREADABLE
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.lifecycle import JobLifecycle
from serve_app.observability.logs import log_context
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.transcript import Transcript
from serve_app.settings import JobSettings

RETRY_DELAY_S = 0.5
"""Delay before the second run of a job, in seconds; doubled for each further run."""

MAX_RETRY_DELAY_S = 60.0
"""Maximum delay before a run, in seconds."""

_DOUBLINGS = 10  # limits the exponent: a float cannot hold 2 to the power of any number of runs

MAX_RUNS = 100
"""Runs after which a job that is lost with its manager fails: the job may be what kills the managers."""

RENEWALS = 3
"""Renewals during one lease, so that one of them may fail."""

RunJob = Callable[[Job], Awaitable[Transcript]]

logger = logging.getLogger(__name__)


class Runner:
    """Claims jobs for `lease_owner`, runs them and completes their runs. Cancelling `run` must stop the work."""

    def __init__(
        self, settings: JobSettings, store: RunStore, run: RunJob, lease_owner: str, lifecycle: JobLifecycle
    ) -> None:
        self._settings = settings
        self._store = store
        self._run = run
        self._lease_owner = lease_owner
        self._lifecycle = lifecycle
        self._attempts: dict[str, int] = {}  # of the jobs that run here
        self._dispatcher: Dispatcher[Job, Transcript] = Dispatcher(
            self._acquire, self._execute, self._complete, settings.max_running
        )
        self._lease = timedelta(seconds=settings.lease_s)
        self._closing = asyncio.Event()
        self._renewal: Task[None] | None = None

    async def start(self) -> None:
        """Recover the jobs of the previous process, and start running jobs."""
        await self._recover()
        self._dispatcher.start()
        self._renewal = asyncio.create_task(self._renew_leases())

    async def close(self) -> None:
        """Stop. Running jobs return to the queue, and their interrupted runs are not counted."""
        self._closing.set()
        await self._dispatcher.close()
        if self._renewal is not None:
            await self._renewal

    def wake(self) -> None:
        """Look for jobs to run."""
        self._dispatcher.wake()

    async def stop(self, job_id: str) -> None:
        """Cancel a job's run if it is in progress here."""
        await self._dispatcher.stop(job_id)

    async def _acquire(self) -> Job | None:
        now = _now()
        job = await self._store.claim(self._lease_owner, now, now + self._lease)
        self._lifecycle.publish(job)
        return job

    async def _execute(self, job: Job) -> Transcript:
        self._attempts[job.id] = job.attempts
        if job.request == UNREADABLE:
            logger.error("the job's request was stored by another version and cannot be read", extra={"job_id": job.id})
            raise InvalidRequest(
                "the request was stored by another version of the service and cannot be read: submit it again",
                "request",
                "unreadable",
            )
        with log_context(job_id=job.id):
            return await self._run(job)

    async def _complete(self, job: Job, run: Task[Transcript]) -> None:
        if self._attempts.get(job.id) == job.attempts:
            del self._attempts[job.id]
        if not run.cancelled() and run.exception() is None:
            await self._lifecycle.end_run(job, JobState.SUCCEEDED, transcript=run.result())
        elif run.cancelled() and self._closing.is_set():
            await self._requeue(job, 0.0)
        else:
            failure = interrupted_error() if run.cancelled() else run.exception()
            assert failure is not None
            await self._retry_or_fail(job, failure)

    async def _retry_or_fail(self, job: Job, failure: BaseException) -> None:
        if not isinstance(failure, ServiceError):
            logger.error("run %d of the job failed", job.attempts, exc_info=failure, extra={"job_id": job.id})
        error = JobError.from_exception(failure)
        # Read again: a block that the run saved has reset the count of lost runs.
        current = await self._store.get(job.id)
        if current is None or current.attempts != job.attempts:
            return
        # A run that was not delivered says nothing about the job; a run that was lost may have been lost by it.
        is_lost = isinstance(failure, Unavailable)
        failed_runs = current.failed_runs + (not is_lost)
        lost_runs = current.lost_runs + (is_lost and not isinstance(failure, NotDelivered))
        is_final = failed_runs >= self._settings.max_attempts or lost_runs >= self._settings.max_losses
        if error.status < 500 or is_final:
            await self._lifecycle.end_run(job, JobState.FAILED, error)
            return
        delay = min(RETRY_DELAY_S * 2 ** min(failed_runs + lost_runs - 1, _DOUBLINGS), MAX_RETRY_DELAY_S)
        await self._requeue(job.model_copy(update={"failed_runs": failed_runs, "lost_runs": lost_runs}), delay)

    async def _requeue(self, job: Job, delay_s: float) -> None:
        now = _now()
        due_at = now + timedelta(seconds=delay_s)
        self._lifecycle.publish(await self._store.requeue(job, now, due_at, job.failed_runs, job.lost_runs))
        self._dispatcher.wake(delay_s)

    async def _renew_leases(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.lease_s / RENEWALS):
                    await self._closing.wait()
                    return
            try:
                runs = dict(self._attempts)
                renewed = await self._store.renew_leases(runs, self._lease_owner, _now() + self._lease)
                # Their jobs have ended, or belong to another manager now.
                lost = [job_id for job_id in runs.keys() - renewed if self._attempts.get(job_id) == runs[job_id]]
                await asyncio.gather(*map(self._dispatcher.stop, lost))
                await self._recover()
            except Exception:
                logger.exception("could not renew the leases of running jobs; retrying")

    async def _recover(self) -> None:
        """Requeue the running jobs that no manager runs; fail them after `MAX_RUNS`."""
        orphaned = await self._store.orphaned(self._lease_owner, _now())
        here = await self._dispatcher.ids()
        for job in orphaned:
            if job.id in here:
                continue
            if job.attempts >= MAX_RUNS:
                await self._lifecycle.end_run(job, JobState.FAILED, JobError.from_exception(interrupted_error()))
            else:  # the loss of its manager says nothing about the job: not counted
                await self._requeue(job, 0.0)


def interrupted_error() -> Unavailable:
    """Return the error of a job whose process was lost."""
    return Unavailable("interrupted: the service stopped while the job was running", None, "interrupted")


def _now() -> datetime:
    return datetime.now(UTC)
