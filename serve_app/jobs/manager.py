"""The job manager: accepts jobs, runs the asynchronous ones, and answers clients' requests about them."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp

from serve_app.errors import Conflict, IdempotencyConflict, InvalidRequest, NotFound, Overloaded
from serve_app.jobs.api import JobOperations
from serve_app.jobs.cursor import from_cursor, to_cursor
from serve_app.jobs.db.deliveries import Outbox
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import EventLog, events_after
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import ACTIVE
from serve_app.jobs.lifecycle import JobLifecycle
from serve_app.jobs.notifier import JobNotifier
from serve_app.jobs.retention import Sweeper
from serve_app.jobs.runner import RunJob, Runner, interrupted_error
from serve_app.jobs.shielded import shielded
from serve_app.jobs.webhooks.payload import WebhookPayload
from serve_app.jobs.webhooks.sender import WebhookSender
from serve_app.jobs.webhooks.validation import check_webhook
from serve_app.observability.metrics import Metrics, NoMetrics
from serve_app.schemas.job import (
    MAX_PAGE,
    DeliveryView,
    Job,
    JobError,
    JobEvent,
    JobPage,
    JobState,
    Mode,
    WebhookState,
)
from serve_app.schemas.request import JobRequest
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore

EVENTS_POLL_S = 2.0
"""Seconds between checks for events of a job that another manager may have changed."""


class JobManager(JobOperations):
    """The operations on the jobs of one database.

    `run` transcribes a job; cancelling it must stop the work. `lease_owner` identifies this manager among all managers
    of the database, and stays the same when its process restarts. `webhook_payloads`: as `webhook_body` needs them.
    Used on one event loop. The caller closes the database and the session. An `owner` is empty if the service has no
    API keys.
    """

    def __init__(
        self,
        settings: AppSettings,
        database: Database,
        blobs: BlobStore,
        run: RunJob,
        session: aiohttp.ClientSession,
        lease_owner: str,
        webhook_payloads: Mapping[str, WebhookPayload],
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or NoMetrics()
        event_log = EventLog(webhook_payloads, settings.webhooks.retry_delays_s[0])
        self._settings = settings
        self._database = database
        self._max_queued = settings.limits.max_queued_jobs
        self._store = JobStore(database, event_log)
        self._runs = RunStore(database, event_log)
        self._outbox = Outbox(database)
        self._webhooks = WebhookSender(settings.webhooks, self._outbox, session, metrics)
        self._notifier = JobNotifier()
        self._lifecycle = JobLifecycle(self._runs, blobs, self._notifier, self._webhooks, metrics)
        self._runner = Runner(settings.jobs, self._runs, run, lease_owner, self._lifecycle)
        self._sweeper = Sweeper(settings, self._store, blobs, self._lifecycle.delete_upload, self._time_out)

    async def start(self) -> None:
        """Recover the jobs of a process that died, and start running jobs."""
        await self._runner.start()
        self._webhooks.start()
        self._sweeper.start()

    async def close(self) -> None:
        """Stop. Running jobs return to the queue, and their interrupted runs are not counted."""
        await self._runner.close()
        await self._webhooks.close()
        await self._sweeper.close()

    @shielded
    async def submit(
        self,
        request: JobRequest,
        job_id: str | None = None,
        *,
        owner: str = "",
        idempotency_key: str | None = None,
    ) -> Job:
        job = _new_job("async", request, job_id, owner, idempotency_key)
        added = await self._store.add(job, self._max_queued)
        if added is None:
            raise self._queue_full_error()
        if not added.is_same_request:
            raise _reused_error(job, added.job)
        if added.is_new:
            self._lifecycle.publish(added.job)
            self._runner.wake()
        elif added.job.request.source != request.source:
            await self._lifecycle.delete_upload(job)  # the same content was uploaded again
        return added.job

    async def check_queue(self) -> None:
        if await self._store.count_queued() >= self._max_queued:
            raise self._queue_full_error()

    async def find_duplicate(
        self, request: JobRequest, job_id: str, *, owner: str = "", idempotency_key: str | None = None
    ) -> Job | None:
        job = _new_job("async", request, job_id, owner, idempotency_key)
        duplicate = await self._store.find_duplicate(job)
        if duplicate is None:
            return None
        if not duplicate.is_same_request:
            raise _reused_error(job, duplicate.job)
        return duplicate.job

    @shielded
    async def register_sync(self, request: JobRequest, job_id: str | None = None, *, owner: str = "") -> Job:
        job = _new_job("sync", request, job_id, owner)
        added = await self._store.add(job)
        assert added is not None  # without a limit
        if not added.is_same_request:
            raise _reused_error(job, added.job)
        self._lifecycle.publish(added.job)
        return added.job

    @shielded
    async def complete(self, job_id: str, transcript: Transcript) -> None:
        await self._lifecycle.end_run(await self._get_sync(job_id), JobState.SUCCEEDED, transcript=transcript)

    @shielded
    async def fail(self, job_id: str, error: JobError) -> None:
        await self._lifecycle.end_run(await self._get_sync(job_id), JobState.FAILED, error)

    @shielded
    async def cancel_sync(self, job_id: str) -> None:
        await self._lifecycle.end_run(await self._get_sync(job_id), JobState.CANCELLED)

    @shielded
    async def report_progress(self, job_id: str, attempt: int, fraction: float) -> None:
        if not 0 <= fraction <= 1:
            raise InvalidRequest(f"fraction must be between 0 and 1, not {fraction}", "fraction")
        await self._lifecycle.update_progress(job_id, attempt, fraction)

    @shielded
    async def save_block(self, job_id: str, attempt: int, number: int, content: str) -> None:
        if not await self._runs.save_block(job_id, attempt, number, content):
            raise Conflict(f"run {attempt} of the job has ended", "job_id", "run_over")

    async def load_blocks(self, job_id: str) -> dict[int, str]:
        return await self._runs.load_blocks(job_id)

    async def get(self, job_id: str, *, owner: str = "") -> Job:
        job = await self._store.get(job_id, owner)
        if job is None:
            raise _not_found(job_id)
        return job

    async def result(self, job_id: str, *, owner: str = "") -> Transcript:
        job = await self.get(job_id, owner=owner)
        if job.state is not JobState.SUCCEEDED:
            raise Conflict(f"the job is {job.state}: only a job that succeeded has a transcript", "job_id", job.state)
        transcript = await self._store.transcript(job_id)
        if transcript is None:
            raise _not_found(job_id)
        return transcript

    async def list(
        self,
        state: JobState | str | None,
        limit: int,
        cursor: str | None,
        webhook: WebhookState | None = None,
        *,
        owner: str = "",
    ) -> JobPage:
        try:
            state = None if state is None else JobState(state)
        except ValueError:
            raise InvalidRequest(f"state must be one of {', '.join(JobState)}, not {state!r}", "state") from None
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}, not {limit}", "limit")
        after = None if cursor is None else from_cursor(cursor)
        jobs = await self._store.list(owner, state, limit + 1, after, webhook)
        page = jobs[:limit]
        next_cursor = to_cursor((page[-1].created_at, page[-1].id)) if len(jobs) > limit else None
        return JobPage(data=page, next_cursor=next_cursor)

    async def list_active(self, *, owner: str = "") -> tuple[str, ...]:
        return await self._store.list_active(owner)

    @shielded
    async def cancel(self, job_id: str, *, owner: str = "") -> Job:
        job = await self.get(job_id, owner=owner)
        if job.state.terminal:
            return job
        if job.mode == "sync":
            raise Conflict("a synchronous job cannot be cancelled: close its request instead", "job_id", "synchronous")
        # The state first, so that later reports of the run are ignored.
        await self._lifecycle.cancel(job_id, expected=ACTIVE)
        await self._runner.stop(job_id)
        return await self.get(job_id, owner=owner)

    @shielded
    async def delete(self, job_id: str, *, owner: str = "") -> None:
        deleted = await self._store.delete(job_id, owner)
        if deleted is None:
            job = await self.get(job_id, owner=owner)
            raise Conflict(f"the job is {job.state}: cancel it first", "job_id", job.state)
        await self._lifecycle.delete_upload(deleted)

    async def events(self, job_id: str, after: int, wait_s: float, *, owner: str = "") -> tuple[JobEvent, ...]:
        deadline = time.monotonic() + wait_s
        while True:
            with self._notifier.subscribe(job_id) as changed:
                job = await self.get(job_id, owner=owner)  # before its events: if it has ended, they are complete
                found = await events_after(self._database, job_id, after)
                left = deadline - time.monotonic()
                if found or job.state.terminal or left <= 0:
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, EVENTS_POLL_S)):
                        await changed.wait()

    async def deliveries(self, job_id: str, *, owner: str = "") -> tuple[DeliveryView, ...]:
        await self.get(job_id, owner=owner)
        return await self._outbox.list_deliveries(job_id)

    @shielded
    async def redeliver(self, job_id: str, delivery_id: str | None, *, owner: str = "") -> tuple[DeliveryView, ...]:
        ids = {delivery.id for delivery in await self.deliveries(job_id, owner=owner)}
        if delivery_id is not None and delivery_id not in ids:
            raise NotFound(f"the job has no delivery {delivery_id!r}", "id", "not_found")
        if not await self._outbox.redeliver(job_id, delivery_id, _now()):
            raise Conflict("there is no finished delivery to send again: all are pending", "id", "pending")
        self._webhooks.wake()
        return await self._outbox.list_deliveries(job_id)

    def _queue_full_error(self) -> Overloaded:
        message = f"the queue is full: {self._max_queued} jobs are waiting; try again later"
        return Overloaded(message, None, "queue_full")

    async def _get_sync(self, job_id: str) -> Job:
        job = await self._runs.get(job_id)
        if job is None:
            raise _not_found(job_id)
        if job.mode != "sync":
            raise Conflict("the job is asynchronous: only its own run can end it", "job_id", "asynchronous")
        return job

    async def _time_out(self, job: Job) -> None:
        await self._lifecycle.end_run(job, JobState.FAILED, JobError.from_exception(interrupted_error()))


def _new_job(
    mode: Mode, request: JobRequest, job_id: str | None, owner: str, idempotency_key: str | None = None
) -> Job:
    if request.webhook is not None:
        check_webhook(request.webhook)
    now = _now()
    job = Job(
        id=job_id or uuid4().hex,
        state=JobState.QUEUED,
        mode=mode,
        owner=owner,
        idempotency_key=idempotency_key,
        request=request,
        created_at=now,
    )
    if mode == "async":
        return job
    return job.model_copy(update={"state": JobState.RUNNING, "started_at": now, "attempts": 1})


def _now() -> datetime:
    return datetime.now(UTC)


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r}; ended jobs are deleted after a while", "job_id", "not_found")


def _reused_error(job: Job, existing: Job) -> IdempotencyConflict:
    if existing.id == job.id:
        return IdempotencyConflict(f"there is already a job {job.id!r} for another request", "id", "id_reused")
    return IdempotencyConflict(
        f"the key {job.idempotency_key!r} was used for another request: use a new key, or send the same request",
        "Idempotency-Key",
        "idempotency_key_reused",
    )
