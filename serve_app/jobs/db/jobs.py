"""The jobs table: adding, finding and deleting jobs. Runs of jobs are in `runs`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Delete, RowMapping, Select, delete, func, insert, or_, select, true, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.jobs.cursor import Position
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import JOB_COLUMNS, EventLog, row_to_job
from serve_app.jobs.db.tables import ACTIVE, CLIP_APART, Utc, deliveries, jobs
from serve_app.schemas.job import EventType, Job, JobState, WebhookState
from serve_app.schemas.request import BlobSource
from serve_app.schemas.transcript import Transcript

PRIORITIES = {"low": 0, "normal": 1, "high": 2}
"""Priorities as the database sorts them."""


@dataclass(frozen=True)
class AddedJob:
    """A job in the database.

    `is_new`: it was added by this call. `is_same_request`: its request equals the one to be added.
    """

    job: Job
    is_new: bool
    is_same_request: bool = True


_COUNT_QUEUED = select(func.count().label("queued")).where(jobs.c.state == JobState.QUEUED)


class JobStore:
    """The jobs table."""

    def __init__(self, database: Database, event_log: EventLog) -> None:
        self._database = database
        self._event_log = event_log

    async def add(self, job: Job, max_queued: int | None = None) -> AddedJob | None:
        """Commit a new job, or return None if `max_queued` jobs are already queued.

        An existing job with the same id, or the same owner and idempotency key, is returned unchanged.
        """

        async def add(connection: AsyncConnection) -> AddedJob | None:
            duplicate = _compare_request(job, (await connection.execute(_select_duplicates(job))).mappings().first())
            if duplicate is not None:
                return duplicate
            if max_queued is not None and (await connection.execute(_COUNT_QUEUED)).scalar_one() >= max_queued:
                return None
            clips = job.request.options.reference_clips
            row = {name: getattr(job, name) for name in Job.model_fields}
            row["request"] = job.request.with_reference_clips([CLIP_APART] * len(clips))
            first: EventType = "queued" if job.state is JobState.QUEUED else "started"
            await connection.execute(
                insert(jobs).values(
                    **row,
                    clips=clips if clips and job.mode == "async" else None,  # synchronous jobs are never claimed
                    fingerprint=job.request.fingerprint,
                    priority=PRIORITIES[job.request.priority],
                    due_at=job.created_at,
                    events=1,
                )
            )
            await self._event_log.record(connection, job, 1, first, job.created_at)
            return AddedJob(job, True)

        try:
            return await self._database.write(add)
        except IntegrityError:  # another manager added a duplicate meanwhile, which is found now
            return await self._database.write(add)

    async def count_queued(self) -> int:
        """Return the number of queued jobs."""
        (row,) = await self._database.read(_COUNT_QUEUED)
        count: int = row["queued"]
        return count

    async def find_duplicate(self, job: Job) -> AddedJob | None:
        """Return the existing job with the same id, or the same owner and idempotency key."""
        rows = await self._database.read(_select_duplicates(job))
        return _compare_request(job, rows[0] if rows else None)

    async def get(self, job_id: str, owner: str) -> Job | None:
        """Return one job of those that `owner` may see."""
        found = await self._read(select(*JOB_COLUMNS).where(jobs.c.id == job_id, _is_visible_to(owner)))
        return found[0] if found else None

    async def transcript(self, job_id: str) -> Transcript | None:
        """Return the transcript of a job."""
        rows = await self._database.read(select(jobs.c.transcript).where(jobs.c.id == job_id))
        transcript: Transcript | None = rows[0]["transcript"] if rows else None
        return transcript

    async def list(
        self,
        owner: str,
        state: JobState | None,
        limit: int,
        after: Position | None,
        webhook: WebhookState | None = None,
    ) -> tuple[Job, ...]:
        """Return up to `limit` jobs that `owner` may see, newest first, older than the position `after`."""
        query = (
            select(*JOB_COLUMNS)
            .where(_is_visible_to(owner))
            .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
            .limit(limit)
        )
        if state is not None:
            query = query.where(jobs.c.state == state)
        if webhook is not None:
            query = query.where(jobs.c.webhook == webhook)
        if after is not None:
            query = query.where(tuple_(jobs.c.created_at, jobs.c.id) < tuple_(*after, types=(Utc, jobs.c.id.type)))
        return await self._read(query)

    async def list_active(self, owner: str) -> tuple[str, ...]:
        """Return the ids of the jobs that `owner` may see and that have not ended, oldest first."""
        query = (
            select(jobs.c.id)
            .where(jobs.c.state.in_(ACTIVE), _is_visible_to(owner))
            .order_by(jobs.c.created_at, jobs.c.id)
        )
        return tuple(row["id"] for row in await self._database.read(query))

    async def active_blob_keys(self) -> set[str]:
        """Return the keys of the blobs of jobs that have not ended."""
        active = await self._read(select(*JOB_COLUMNS).where(jobs.c.state.in_(ACTIVE)))
        return {job.request.source.key for job in active if isinstance(job.request.source, BlobSource)}

    async def timed_out(self, created_before: datetime) -> tuple[Job, ...]:
        """Return running synchronous jobs that are too old to still have a client."""
        return await self._read(
            select(*JOB_COLUMNS).where(
                jobs.c.state == JobState.RUNNING, jobs.c.mode == "sync", jobs.c.created_at < created_before
            )
        )

    async def delete(self, job_id: str, owner: str) -> Job | None:
        """Delete a job that has ended and that `owner` may see, and return it."""
        is_ended = jobs.c.state.not_in(ACTIVE)
        rows = await self._delete(delete(jobs).where(jobs.c.id == job_id, is_ended, _is_visible_to(owner)))
        return rows[0] if rows else None

    async def purge(self, finished_before: datetime) -> tuple[Job, ...]:
        """Delete the jobs that ended before the given time, except those with a pending webhook, and return them."""
        pending = select(deliveries.c.job_id).where(deliveries.c.state == "pending")
        return await self._delete(delete(jobs).where(jobs.c.finished_at < finished_before, jobs.c.id.not_in(pending)))

    async def _read(self, query: Select[Any]) -> tuple[Job, ...]:
        return tuple(map(row_to_job, await self._database.read(query)))

    async def _delete(self, statement: Delete) -> tuple[Job, ...]:
        async def delete_rows(connection: AsyncConnection) -> tuple[Job, ...]:
            rows = await connection.execute(statement.returning(*JOB_COLUMNS))
            return tuple(map(row_to_job, rows.mappings()))

        return await self._database.write(delete_rows)


def _is_visible_to(owner: str) -> ColumnElement[bool]:
    """Return the condition for the jobs that a caller may see and change: at present, all jobs."""
    return true()


def _select_duplicates(job: Job) -> Select[Any]:
    is_duplicate = jobs.c.id == job.id
    if job.idempotency_key is not None:
        is_duplicate = or_(is_duplicate, (jobs.c.owner == job.owner) & (jobs.c.idempotency_key == job.idempotency_key))
    return select(*JOB_COLUMNS, jobs.c.fingerprint).where(is_duplicate).order_by(jobs.c.id != job.id)


def _compare_request(job: Job, row: RowMapping | None) -> AddedJob | None:
    if row is None:
        return None
    is_same = row["fingerprint"] == job.request.fingerprint and row["owner"] == job.owner
    return AddedJob(row_to_job(row), False, is_same)
