"""Every job's way from submitted to ended, and what a client may ask of it."""

import asyncio
import logging
from asyncio import Task
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

import aiohttp

from serve_app.errors import Conflict, InvalidRequest, NotFound, Overloaded, ServiceError, Unavailable
from serve_app.jobs.blobs import BlobStore
from serve_app.jobs.cursor import from_cursor, to_cursor
from serve_app.jobs.dispatch import Dispatcher
from serve_app.jobs.models import MAX_PAGE, Job, JobError, JobPage, JobState
from serve_app.jobs.store import ACTIVE, JobStore
from serve_app.jobs.webhooks import WebhookSender, check_webhook
from serve_app.options import BlobSource, JobRequest
from serve_app.settings import AppSettings
from serve_app.transcript import Transcript

RETRY_DELAY_S = 0.5
"""Wait before the second run of a job; doubled for each further one."""

SWEEP_S = 60.0
"""How often old jobs are purged and stranded ones found, at the most."""

SYNC_GRACE_S = 60.0
"""A synchronous job this much over its time limit has lost its client."""

Run = Callable[[Job], Awaitable[Transcript]]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)
_unbroken: set[Task[Any]] = set()


def unbroken(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a method run to its end when its caller goes away: no change is left half made."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.create_task(method(*args, **kwargs))
        _unbroken.add(task)
        task.add_done_callback(_unbroken.discard)
        return await asyncio.shield(task)

    return call


class JobManager:
    """Keeps the jobs, runs the asynchronous ones, reports their ends.

    `run` makes the transcript of a job; cancelling it must stop the work. All of it lives on
    one event loop. The store, the blobs and the session stay the caller's to close.
    """

    def __init__(
        self,
        settings: AppSettings,
        store: JobStore,
        blobs: BlobStore,
        run: Run,
        session: aiohttp.ClientSession,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._run = run
        self._dispatcher = Dispatcher(self._take, self._do, self._settle, settings.jobs.max_running)
        self._webhooks = WebhookSender(settings.webhooks, store, session)
        # Fractions of the jobs that run here, synchronous ones too.
        self._progress: dict[str, float] = {}
        self._closing = asyncio.Event()
        self._sweeper: Task[None] | None = None

    async def start(self) -> None:
        """Take up what a process that died has left, and begin to run jobs."""
        await self._recover()
        self._dispatcher.start()
        self._webhooks.start()
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop. Jobs that were running go back into the queue, and this run isn't counted."""
        self._closing.set()
        await self._dispatcher.close()
        await self._webhooks.close()
        if self._sweeper is not None:
            await self._sweeper

    @unbroken
    async def submit(self, request: JobRequest, job_id: str | None = None) -> Job:
        """Accept a job to be run: it is in the database when this returns.

        `job_id`: given by a caller that may have to ask again, so that it gets the same job.
        Raises InvalidRequest for a webhook that can't be called, Overloaded when the queue is full.
        """
        _check(request)
        job_id = job_id or uuid4().hex
        job = Job(id=job_id, state=JobState.QUEUED, mode="async", request=request, created_at=_now())
        limit = self._settings.limits.max_queued_jobs
        accepted = await self._store.add(job, limit)
        if accepted is None:
            raise Overloaded(f"{limit} jobs are waiting already, the most allowed; try again later", None, "queue_full")
        self._dispatcher.wake()
        return accepted

    @unbroken
    async def announce(self, request: JobRequest, job_id: str | None = None) -> Job:
        """List a job that its client waits for; whoever runs it calls `finish`, `fail` or `abandon`.

        `job_id`: as in `submit`.
        Raises InvalidRequest for a webhook that can't be called.
        """
        _check(request)
        now, job_id = _now(), job_id or uuid4().hex
        job = Job(
            id=job_id,
            state=JobState.RUNNING,
            mode="sync",
            request=request,
            created_at=now,
            started_at=now,
            attempts=1,
        )
        self._progress[job_id] = 0.0
        return await self._store.add(job) or job

    @unbroken
    async def finish(self, job_id: str, transcript: Transcript) -> None:
        """A synchronous job has its transcript. Changes nothing if the job has ended already."""
        await self._end(await self._synchronous(job_id), JobState.SUCCEEDED, transcript=transcript)

    @unbroken
    async def fail(self, job_id: str, error: JobError) -> None:
        """A synchronous job has failed. Changes nothing if the job has ended already."""
        await self._end(await self._synchronous(job_id), JobState.FAILED, error=error)

    @unbroken
    async def abandon(self, job_id: str) -> None:
        """A synchronous job's client has gone. Changes nothing if the job has ended already."""
        await self._end(await self._synchronous(job_id), JobState.CANCELLED)

    async def progress(self, job_id: str, fraction: float) -> None:
        """A running job is so far, 0 to 1; it never goes back. One that isn't running is left as it is."""
        if not 0 <= fraction <= 1:
            raise InvalidRequest(f"fraction is {fraction}: 0 to 1 is allowed", "fraction")
        if job_id in self._progress:
            self._progress[job_id] = max(self._progress[job_id], fraction)

    async def get(self, job_id: str) -> Job:
        """One job. Raises NotFound."""
        return self._shown(await self._existing(job_id))

    async def result(self, job_id: str) -> Transcript:
        """A job's transcript. Raises NotFound, and Conflict unless it has succeeded."""
        job = await self._existing(job_id)
        if job.state is not JobState.SUCCEEDED:
            raise Conflict(f"the job is {job.state}: only one that succeeded has a transcript", "job_id", job.state)
        transcript = await self._store.transcript(job_id)
        if transcript is None:
            raise _unknown(job_id)
        return transcript

    async def list(self, state: JobState | str | None, limit: int, cursor: str | None) -> JobPage:
        """Jobs, newest first. Raises InvalidRequest that names what is wrong."""
        try:
            state = None if state is None else JobState(state)
        except ValueError:
            raise InvalidRequest(f"state {state!r}: one of {', '.join(JobState)} is allowed", "state") from None
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"limit is {limit}: 1 to {MAX_PAGE} is allowed", "limit")
        after = None if cursor is None else from_cursor(cursor)
        jobs = await self._store.page(state, limit + 1, after)
        page = jobs[:limit]
        more = to_cursor((page[-1].created_at, page[-1].id)) if len(jobs) > limit else None
        return JobPage(data=tuple(map(self._shown, page)), next_cursor=more)

    @unbroken
    async def cancel(self, job_id: str) -> Job:
        """Stop a job; one that has ended is returned as it is.

        Raises NotFound, and Conflict for a synchronous job: only its client's going away stops it.
        """
        job = await self._existing(job_id)
        if job.state.terminal:
            return job
        if job.mode == "sync":
            raise Conflict("a synchronous job can't be cancelled: close its request", "job_id", "synchronous")
        # The state first: whatever the run still reports then comes too late.
        await self._end(job, JobState.CANCELLED, expected=ACTIVE)
        await self._dispatcher.stop(job_id)
        return await self._existing(job_id)

    @unbroken
    async def delete(self, job_id: str) -> None:
        """Forget a job that has ended. Raises NotFound, and Conflict for one that has not."""
        gone = await self._store.delete(job_id)
        if gone is None:
            job = await self._existing(job_id)
            raise Conflict(f"the job is {job.state}: cancel it first", "job_id", job.state)
        await self._drop_upload(gone)

    async def _existing(self, job_id: str) -> Job:
        job = await self._store.get(job_id)
        if job is None:
            raise _unknown(job_id)
        return job

    async def _synchronous(self, job_id: str) -> Job:
        job = await self._existing(job_id)
        if job.mode != "sync":
            raise Conflict("the job is asynchronous: it ends with its run", "job_id", "asynchronous")
        return job

    def _shown(self, job: Job) -> Job:
        if job.state is not JobState.RUNNING:
            return job
        return job.model_copy(update={"progress": self._progress.get(job.id, job.progress)})

    async def _take(self) -> Job | None:
        return await self._store.claim(_now())

    async def _do(self, job: Job) -> Transcript:
        self._progress[job.id] = 0.0
        return await self._run(job)

    async def _settle(self, job: Job, run: Task[Transcript]) -> None:
        if not run.cancelled() and run.exception() is None:
            await self._end(job, JobState.SUCCEEDED, transcript=run.result())
        elif run.cancelled() and self._closing.is_set():
            self._progress.pop(job.id, None)
            await self._store.requeue(job.id, _now(), job.attempts - 1)
        else:
            failure = _interrupted() if run.cancelled() else run.exception()
            assert failure is not None
            await self._retry_or_fail(job, failure)

    async def _retry_or_fail(self, job: Job, failure: BaseException) -> None:
        if not isinstance(failure, ServiceError):
            log.error("job %s, run %d", job.id, job.attempts, exc_info=failure)
        error = JobError.of(failure)
        if error.status < 500 or job.attempts >= self._settings.jobs.max_attempts:
            await self._end(job, JobState.FAILED, error=error)
            return
        delay = RETRY_DELAY_S * 2 ** (job.attempts - 1)
        self._progress.pop(job.id, None)
        await self._store.requeue(job.id, _now() + timedelta(seconds=delay), job.attempts)
        self._dispatcher.wake(delay)

    async def _end(
        self,
        job: Job,
        state: JobState,
        *,
        expected: tuple[JobState, ...] = (JobState.RUNNING,),
        error: JobError | None = None,
        transcript: Transcript | None = None,
    ) -> Job | None:
        """The one way to an end. None: the job had ended already."""
        now, progress = _now(), self._progress.pop(job.id, 0.0)
        ended = await self._store.end(
            job.id,
            state,
            now,
            expected=expected,
            progress=1.0 if state is JobState.SUCCEEDED else progress,
            error=error,
            transcript=transcript,
            webhook_due_at=self._webhooks.first_due_at(job, state, now),
        )
        if ended is not None:
            self._webhooks.announce(ended)
            await self._drop_upload(ended)
        return ended

    async def _drop_upload(self, job: Job) -> None:
        if isinstance(job.request.source, BlobSource):
            try:
                await self._blobs.delete(job.request.source.key)
            except Exception:
                log.exception("the upload of job %s could not be deleted; tried again when it is purged", job.id)

    async def _sweep(self) -> None:
        retention_s = self._settings.jobs.retention_s
        while not self._closing.is_set():
            try:
                for job in await self._store.purge(_now() - timedelta(seconds=retention_s)):
                    await self._drop_upload(job)
                await self._recover()
            except Exception:
                log.exception("could not sweep the jobs")
            try:
                async with asyncio.timeout(min(SWEEP_S, retention_s)):
                    await self._closing.wait()
            except TimeoutError:
                pass

    async def _recover(self) -> None:
        """See to jobs that are said to be running, but by nobody: another run, or failed."""
        running = await self._store.running()
        here = self._progress.keys() | await self._dispatcher.ids()
        overdue = _now() - timedelta(seconds=self._settings.limits.request_timeout_s + SYNC_GRACE_S)
        for job in running:
            if job.mode == "sync":
                # Its run and its client are in other processes, and may outlive this one's restart.
                if job.created_at < overdue:
                    await self._end(job, JobState.FAILED, error=JobError.of(_interrupted()))
            elif job.id not in here:
                await self._retry_or_fail(job, _interrupted())


def _check(request: JobRequest) -> None:
    if request.webhook is not None:
        check_webhook(request.webhook)


def _now() -> datetime:
    return datetime.now(UTC)


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r}; jobs that ended are forgotten after a while", "job_id", "not_found")


def _interrupted() -> Unavailable:
    return Unavailable("interrupted: the service stopped while the job ran", None, "interrupted")
