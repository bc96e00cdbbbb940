"""Every job's way from submitted to ended, and what a client may ask of it."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp

from serve_app.errors import Conflict, IdempotencyConflict, InvalidRequest, NotFound, Overloaded
from serve_app.jobs.cursor import from_cursor, to_cursor
from serve_app.jobs.db.deliveries import Outbox
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import events_after
from serve_app.jobs.db.jobs import ACTIVE, JobStore
from serve_app.jobs.notifier import JobNotifier
from serve_app.jobs.retention import Sweeper
from serve_app.jobs.runner import Run, Runner, interrupted
from serve_app.jobs.shielded import shielded
from serve_app.jobs.webhooks.payload import WebhookPayload
from serve_app.jobs.webhooks.sender import WebhookSender, check_webhook
from serve_app.schemas.job import (
    MAX_PAGE,
    PROGRESS_S,
    DeliveryView,
    Job,
    JobError,
    JobEvent,
    JobPage,
    JobState,
    WebhookState,
)
from serve_app.schemas.request import BlobSource, JobRequest
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore

EVENTS_POLL_S = 2.0
"""Seconds between checks for events of a job that another manager may have changed."""

log = logging.getLogger(__name__)


class JobManager:
    """Keeps the jobs, has the asynchronous ones run, tells of what happens to them.

    `run` makes the transcript of a job; cancelling it must stop the work. `holder` names this manager: the same
    after a restart of its process, and no other's. `webhook_payloads`: the payload of each
    webhook format. All of it lives on one event loop. The database, the blobs and
    the session stay the caller's to close.
    """

    def __init__(
        self,
        settings: AppSettings,
        database: Database,
        blobs: BlobStore,
        run: Run,
        session: aiohttp.ClientSession,
        holder: str,
        webhook_payloads: Mapping[str, WebhookPayload],
    ) -> None:
        self._settings = settings
        self._database = database
        self._store = JobStore(database, settings.webhooks.retry_delays_s[0], webhook_payloads)
        self._outbox = Outbox(database)
        self._blobs = blobs
        self._runner = Runner(settings.jobs, self._store, run, holder, self)
        self._webhooks = WebhookSender(settings.webhooks, self._outbox, session)
        self._news = JobNotifier()
        self._reported: dict[str, float] = {}  # when a job's progress was last written down
        self._sweeper = Sweeper(settings, self._store, blobs, self._drop_upload, self._client_lost)

    async def start(self) -> None:
        """Take up what a process that died has left, and begin to run jobs."""
        await self._runner.start()
        self._webhooks.start()
        self._sweeper.start()

    async def close(self) -> None:
        """Stop. Jobs that were running go back into the queue, and this run isn't counted."""
        await self._runner.close()
        await self._webhooks.close()
        await self._sweeper.close()

    @shielded
    async def submit(
        self, request: JobRequest, job_id: str | None = None, owner: str = "", idempotency_key: str | None = None
    ) -> Job:
        """Accept a job to be run: it is in the database when this returns.

        The same `job_id`, or `idempotency_key` of an `owner`, and the same request again: the same job.
        Raises InvalidRequest for a webhook that can't be called, IdempotencyConflict for another request, Overloaded
        when the queue is full.
        """
        _check(request)
        job = _queued(request, job_id or uuid4().hex, owner, idempotency_key)
        limit = self._settings.limits.max_queued_jobs
        added = await self._store.add(job, limit)
        if added is None:
            raise Overloaded(f"{limit} jobs are waiting already, the most allowed; try again later", None, "queue_full")
        if not added.is_same_request:
            raise _reused(job, added.job)
        if added.new:
            self.told(added.job)
            self._runner.wake()
        elif added.job.request.source != request.source:
            await self._drop_upload(job)  # the same content was brought again
        return added.job

    async def known(self, request: JobRequest, job_id: str, owner: str, idempotency_key: str | None) -> Job | None:
        """The job that submitting this would answer with, if there is one already.

        Raises IdempotencyConflict as `submit` does.
        """
        job = _queued(request, job_id, owner, idempotency_key)
        added = await self._store.known(job)
        if added is None:
            return None
        if not added.is_same_request:
            raise _reused(job, added.job)
        return added.job

    @shielded
    async def announce(self, request: JobRequest, job_id: str | None = None, owner: str = "") -> Job:
        """List a job that its client waits for; whoever runs it calls `finish`, `fail` or `abandon`.

        `job_id`: as in `submit`.
        Raises InvalidRequest for a webhook that can't be called.
        """
        _check(request)
        now = _now()
        job = Job(
            id=job_id or uuid4().hex,
            state=JobState.RUNNING,
            mode="sync",
            owner=owner,
            request=request,
            created_at=now,
            started_at=now,
            attempts=1,
        )
        added = await self._store.add(job)
        assert added is not None  # without a limit
        if not added.is_same_request:
            raise _reused(job, added.job)
        self.told(added.job)
        return added.job

    @shielded
    async def finish(self, job_id: str, transcript: Transcript) -> None:
        """A synchronous job has its transcript. Changes nothing if the job has ended already."""
        await self.end(await self._synchronous(job_id), JobState.SUCCEEDED, None, transcript)

    @shielded
    async def fail(self, job_id: str, error: JobError) -> None:
        """A synchronous job has failed. Changes nothing if the job has ended already."""
        await self.end(await self._synchronous(job_id), JobState.FAILED, error, None)

    @shielded
    async def abandon(self, job_id: str) -> None:
        """A synchronous job's client has gone. Changes nothing if the job has ended already."""
        await self.end(await self._synchronous(job_id), JobState.CANCELLED, None, None)

    @shielded
    async def progress(self, job_id: str, attempt: int, fraction: float) -> None:
        """A run is so far, 0 to 1; it never goes back, and is written down once a second at most."""
        if not 0 <= fraction <= 1:
            raise InvalidRequest(f"fraction must be between 0 and 1, not {fraction}", "fraction")
        now = time.monotonic()
        if now - self._reported.get(job_id, -PROGRESS_S) >= PROGRESS_S:
            self._reported[job_id] = now
            job = await self._store.progress(job_id, attempt, fraction, _now())
            if job is None:  # the run is over, and its job is perhaps forgotten here
                self._reported.pop(job_id, None)
            self.told(job)

    @shielded
    async def keep(self, job_id: str, attempt: int, number: int, content: str) -> None:
        """Keep a block that a run has done. Raises Conflict when the run is over: it need not go on."""
        if not await self._store.keep(job_id, attempt, number, content):
            raise Conflict(f"run {attempt} of the job has ended", "job_id", "run_over")

    async def kept(self, job_id: str) -> dict[int, str]:
        """The blocks that earlier runs of a job have done."""
        return await self._store.kept(job_id)

    async def get(self, job_id: str) -> Job:
        """One job. Raises NotFound."""
        return await self._existing(job_id)

    async def result(self, job_id: str) -> Transcript:
        """A job's transcript. Raises NotFound, and Conflict unless it has succeeded."""
        job = await self._existing(job_id)
        if job.state is not JobState.SUCCEEDED:
            raise Conflict(f"the job is {job.state}: only a job that succeeded has a transcript", "job_id", job.state)
        transcript = await self._store.transcript(job_id)
        if transcript is None:
            raise _unknown(job_id)
        return transcript

    async def list(
        self, state: JobState | str | None, limit: int, cursor: str | None, webhook: WebhookState | None = None
    ) -> JobPage:
        """Jobs, newest first. Raises InvalidRequest that names what is wrong."""
        try:
            state = None if state is None else JobState(state)
        except ValueError:
            raise InvalidRequest(f"state must be one of {', '.join(JobState)}, not {state!r}", "state") from None
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}, not {limit}", "limit")
        after = None if cursor is None else from_cursor(cursor)
        jobs = await self._store.page(state, limit + 1, after, webhook)
        page = jobs[:limit]
        more = to_cursor((page[-1].created_at, page[-1].id)) if len(jobs) > limit else None
        return JobPage(data=page, next_cursor=more)

    async def active(self) -> tuple[str, ...]:
        """The ids of all jobs that have not ended, oldest first."""
        return await self._store.active()

    @shielded
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
        await self._ended(await self._store.end(job_id, JobState.CANCELLED, _now(), expected=ACTIVE))
        await self._runner.stop(job_id)
        return await self._existing(job_id)

    @shielded
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
            raise Conflict("the job is asynchronous: only its run can end it", "job_id", "asynchronous")
        return job

    async def events(self, job_id: str, after: int, wait_s: float) -> tuple[JobEvent, ...]:
        """Return the events of a job after the given number, waiting for the first one. Raises NotFound."""
        until = time.monotonic() + wait_s
        while True:
            with self._news.subscribe(job_id) as news:
                job = await self._existing(job_id)  # before its events: of one that has ended these are all
                found = await events_after(self._database, job_id, after)
                left = until - time.monotonic()
                if found or job.state.terminal or left <= 0:
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, EVENTS_POLL_S)):
                        await news.wait()

    async def deliveries(self, job_id: str) -> tuple[DeliveryView, ...]:
        """A job's webhooks and every try at them. Raises NotFound."""
        await self._existing(job_id)
        return await self._outbox.of(job_id)

    @shielded
    async def redeliver(self, job_id: str, delivery_id: str | None) -> tuple[DeliveryView, ...]:
        """Send a webhook that was delivered or given up again, or all of the job's.

        Raises NotFound, and Conflict when there is nothing to send again.
        """
        known = {delivery.id for delivery in await self.deliveries(job_id)}
        if delivery_id is not None and delivery_id not in known:
            raise NotFound(f"the job has no delivery {delivery_id!r}", "id", "not_found")
        if not await self._outbox.redeliver(job_id, delivery_id, _now()):
            raise Conflict("there is no delivery to send again: all are still being tried", "id", "pending")
        self._webhooks.wake()
        return await self._outbox.of(job_id)

    async def end(self, job: Job, state: JobState, error: JobError | None, transcript: Transcript | None) -> None:
        """A run ends its job; one that is over changes nothing."""
        await self._ended(
            await self._store.end(job.id, state, _now(), attempt=job.attempts, error=error, transcript=transcript)
        )

    def told(self, job: Job | None) -> None:
        """A job has changed, and the database knows; null: nothing has."""
        if job is not None:
            self._news.notify(job.id)
            if job.request.webhook is not None:
                self._webhooks.wake()

    async def _ended(self, job: Job | None) -> None:
        if job is not None:
            self._reported.pop(job.id, None)
            self.told(job)
            await self._drop_upload(job)

    async def _client_lost(self, job: Job) -> None:
        await self.end(job, JobState.FAILED, JobError.of(interrupted()), None)

    async def _drop_upload(self, job: Job) -> None:
        if isinstance(job.request.source, BlobSource):
            try:
                await self._blobs.delete(job.request.source.key)
            except Exception:
                log.exception("the upload of job %s could not be deleted; tried again when it is purged", job.id)


def _check(request: JobRequest) -> None:
    if request.webhook is not None:
        check_webhook(request.webhook)


def _queued(request: JobRequest, job_id: str, owner: str, idempotency_key: str | None) -> Job:
    return Job(
        id=job_id,
        state=JobState.QUEUED,
        mode="async",
        owner=owner,
        idempotency_key=idempotency_key,
        request=request,
        created_at=_now(),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r}; jobs that ended are forgotten after a while", "job_id", "not_found")


def _reused(job: Job, known: Job) -> IdempotencyConflict:
    if known.id == job.id:
        return IdempotencyConflict(f"there is a job {job.id!r} already, for another request", "id", "id_reused")
    return IdempotencyConflict(
        f"the key {job.idempotency_key!r} was used for another request: take a new one, or send the same request",
        "Idempotency-Key",
        "idempotency_key_reused",
    )
