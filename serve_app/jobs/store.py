"""The table of jobs: the only place that knows SQL.

A job's state is changed by one UPDATE guarded by the state it is expected in, so that who comes
too late changes nothing. What changed is returned, or None.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Delete,
    Dialect,
    Executable,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    Update,
    delete,
    event,
    func,
    insert,
    make_url,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator

from serve_app.jobs.cursor import Position
from serve_app.jobs.models import Job, JobError, JobState, WebhookState
from serve_app.options import JobRequest
from serve_app.transcript import Transcript

ACTIVE = (JobState.QUEUED, JobState.RUNNING)

BUSY_TIMEOUT_MS = 30_000
"""How long a statement waits for another process's write (SQLite)."""


class Utc(TypeDecorator[datetime]):
    """An aware time, kept as UTC also by a database without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Stored(TypeDecorator[BaseModel]):
    """A pydantic model, as its JSON."""

    impl = Text
    cache_ok = True

    def __init__(self, model: type[BaseModel]) -> None:
        super().__init__()
        self.model = model

    def process_bind_param(self, value: BaseModel | None, dialect: Dialect) -> str | None:
        return None if value is None else value.model_dump_json()

    def process_result_value(self, value: str | None, dialect: Dialect) -> BaseModel | None:
        return None if value is None else self.model.model_validate_json(value)


_metadata = MetaData()

_jobs = Table(
    "jobs",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("mode", String(8), nullable=False),
    Column("request", Stored(JobRequest), nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("started_at", Utc),
    Column("finished_at", Utc, index=True),
    Column("due_at", Utc, nullable=False),  # a queued job is not run before
    Column("attempts", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("error", Stored(JobError)),
    Column("timings", JSON, nullable=False),
    Column("transcript", Stored(Transcript)),
    Column("webhook", String(16)),
    Column("webhook_tries", Integer, nullable=False, default=0),
    Column("webhook_due_at", Utc),  # a pending webhook is not sent before
    Index("jobs_by_age", "created_at", "id"),
    Index("jobs_by_state", "state", "created_at", "id"),
    Index("jobs_due", "state", "due_at"),
    Index("webhooks_due", "webhook", "webhook_due_at"),
)

_JOB = tuple(_jobs.c[name] for name in Job.model_fields)


@dataclass(frozen=True)
class Delivery:
    """One try at a job's webhook, the `number`-th, from 1."""

    job: Job
    number: int

    @property
    def id(self) -> str:
        """The job's: it has one webhook."""
        return self.job.id


class JobStore:
    """Jobs in a SQL database; one process writes, one statement or transaction at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and create what is missing, a SQLite file and its folder included."""
        engine = create_async_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            folder = Path(make_url(url).database or "").parent
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        async with engine.begin() as connection:
            await connection.run_sync(_metadata.create_all)
        return cls(engine)

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def add(self, job: Job, max_queued: int | None = None) -> Job | None:
        """Commit a new job, unless `max_queued` are waiting already; one of that id is returned as it is."""
        async with self._writing, self._engine.begin() as connection:
            known = (await connection.execute(select(*_JOB).where(_jobs.c.id == job.id))).mappings().first()
            if known is not None:
                return _job(known)
            if max_queued is not None:
                waiting = select(func.count()).where(_jobs.c.state == JobState.QUEUED)
                if (await connection.execute(waiting)).scalar_one() >= max_queued:
                    return None
            row = {name: getattr(job, name) for name in Job.model_fields}
            await connection.execute(insert(_jobs).values(**row, due_at=job.created_at))
        return job

    async def get(self, job_id: str) -> Job | None:
        """One job."""
        found = await self._read(select(*_JOB).where(_jobs.c.id == job_id))
        return found[0] if found else None

    async def transcript(self, job_id: str) -> Transcript | None:
        """What a job has heard."""
        async with self._engine.connect() as connection:
            found = await connection.execute(select(_jobs.c.transcript).where(_jobs.c.id == job_id))
            transcript: Transcript | None = found.scalar_one_or_none()
        return transcript

    async def page(self, state: JobState | None, limit: int, after: Position | None) -> tuple[Job, ...]:
        """At most `limit` jobs, newest first, older than the position `after`."""
        query = select(*_JOB).order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(_jobs.c.state == state)
        if after is not None:
            query = query.where(tuple_(_jobs.c.created_at, _jobs.c.id) < tuple_(*after, types=(Utc, String)))
        return await self._read(query)

    async def running(self) -> tuple[Job, ...]:
        """Every job that is said to be running."""
        return await self._read(select(*_JOB).where(_jobs.c.state == JobState.RUNNING))

    async def claim(self, now: datetime) -> Job | None:
        """Set the job that has waited longest running."""
        oldest = (
            select(_jobs.c.id)
            .where(_jobs.c.state == JobState.QUEUED, _jobs.c.due_at <= now)
            .order_by(_jobs.c.due_at)
            .limit(1)
            .scalar_subquery()
        )
        return await self._change(
            update(_jobs)
            .where(_jobs.c.id == oldest, _jobs.c.state == JobState.QUEUED)
            .values(state=JobState.RUNNING, started_at=now, attempts=_jobs.c.attempts + 1)
        )

    async def requeue(self, job_id: str, due_at: datetime, attempts: int) -> Job | None:
        """Put a running job back into the queue, not to be run before `due_at`."""
        return await self._change(
            update(_jobs)
            .where(_jobs.c.id == job_id, _jobs.c.state == JobState.RUNNING)
            .values(state=JobState.QUEUED, started_at=None, due_at=due_at, attempts=attempts)
        )

    async def end(
        self,
        job_id: str,
        state: JobState,
        now: datetime,
        *,
        expected: Collection[JobState] = (JobState.RUNNING,),
        progress: float,
        error: JobError | None = None,
        transcript: Transcript | None = None,
        webhook_due_at: datetime | None = None,
    ) -> Job | None:
        """Move a job to a terminal state, and in the same breath ask for its webhook."""
        return await self._change(
            update(_jobs)
            .where(_jobs.c.id == job_id, _jobs.c.state.in_(expected))
            .values(
                state=state,
                finished_at=now,
                progress=progress,
                error=error,
                transcript=transcript,
                timings={} if transcript is None else transcript.timings,
                webhook=None if webhook_due_at is None else "pending",
                webhook_due_at=webhook_due_at,
            )
        )

    async def claim_delivery(self, now: datetime, again_at: datetime) -> Delivery | None:
        """The pending webhook that has been due longest; due again at `again_at` if nobody reports on it."""
        oldest = (
            select(_jobs.c.id)
            .where(_jobs.c.webhook == "pending", _jobs.c.webhook_due_at <= now)
            .order_by(_jobs.c.webhook_due_at)
            .limit(1)
            .scalar_subquery()
        )
        row = await self._write(
            update(_jobs)
            .where(_jobs.c.id == oldest)
            .values(webhook_due_at=again_at, webhook_tries=_jobs.c.webhook_tries + 1)
            .returning(*_JOB, _jobs.c.webhook_tries)
        )
        return Delivery(_job(row[0]), row[0]["webhook_tries"]) if row else None

    async def report_delivery(self, job_id: str, state: WebhookState, due_at: datetime | None = None) -> None:
        """Say how a try at a pending webhook went, and when the next is due."""
        await self._change(
            update(_jobs)
            .where(_jobs.c.id == job_id, _jobs.c.webhook == "pending")
            .values(webhook=state, webhook_due_at=due_at)
        )

    async def delete(self, job_id: str) -> Job | None:
        """Forget a job that has ended."""
        return await self._change(delete(_jobs).where(_jobs.c.id == job_id, _jobs.c.state.not_in(ACTIVE)))

    async def purge(self, finished_before: datetime) -> tuple[Job, ...]:
        """Forget the jobs that ended before a time, but none with a webhook still to be sent."""
        settled = or_(_jobs.c.webhook.is_(None), _jobs.c.webhook != "pending")
        rows = await self._write(delete(_jobs).where(_jobs.c.finished_at < finished_before, settled).returning(*_JOB))
        return tuple(map(_job, rows))

    async def _read(self, query: Select[Any]) -> tuple[Job, ...]:
        async with self._engine.connect() as connection:
            return tuple(map(_job, (await connection.execute(query)).mappings()))

    async def _change(self, statement: Update | Delete) -> Job | None:
        rows = await self._write(statement.returning(*_JOB))
        return _job(rows[0]) if rows else None

    async def _write(self, statement: Executable) -> Sequence[RowMapping]:
        async with self._writing, self._engine.begin() as connection:
            return (await connection.execute(statement)).mappings().all()


def _job(row: RowMapping) -> Job:
    return Job(**{name: row[name] for name in Job.model_fields})


def _configure_sqlite(connection: Any, _: object) -> None:
    # WAL: readers and the writer don't wait for each other. `synchronous` stays FULL, so that a
    # job that was accepted survives a power cut.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()
