"""Jobs in the database: every change of one, with the event and the webhook that tell of it.

A job's state is changed by one UPDATE guarded by the state, and the run, that it is expected in, so that who comes
too late changes nothing. What changed is returned, or None.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Delete, RowMapping, Select, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.jobs.cursor import Position
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import JOB, EventLog, row_to_job
from serve_app.jobs.db.tables import CLIP_APART, Utc, blocks, deliveries, jobs
from serve_app.jobs.fair_queue import next_owner
from serve_app.jobs.webhooks.payload import FINAL_EVENTS, WebhookPayload
from serve_app.schemas.job import EventType, Job, JobError, JobState, WebhookState
from serve_app.schemas.request import BlobSource
from serve_app.schemas.transcript import Transcript

ACTIVE = (JobState.QUEUED, JobState.RUNNING)

PRIORITIES = {"low": 0, "normal": 1, "high": 2}
"""As the database sorts them."""


@dataclass(frozen=True)
class AddedJob:
    """A job in the database; `new`: it was not there before. `same`: its request is the one that was to be added."""

    job: Job
    new: bool
    is_same_request: bool = True


class JobStore:
    """The table of jobs, and their kept blocks.

    `webhook_delay_s`: the first try at a webhook comes so long after what it tells of. `webhook_payloads`: as
    `webhook_body` needs them.
    """

    def __init__(
        self,
        database: Database,
        webhook_delay_s: float = 0.0,
        webhook_payloads: Mapping[str, WebhookPayload] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._journal = EventLog(webhook_delay_s, webhook_payloads)

    async def add(self, job: Job, max_queued: int | None = None) -> AddedJob | None:
        """Commit a new job, unless `max_queued` are waiting already (None).

        Of a job with that id, or with that owner and idempotency key, nothing is changed.
        """

        async def add(connection: AsyncConnection) -> AddedJob | None:
            known = _compare_request(job, (await connection.execute(_select_duplicates(job))).mappings().first())
            if known is not None:
                return known
            if max_queued is not None:
                waiting = select(func.count()).where(jobs.c.state == JobState.QUEUED)
                if (await connection.execute(waiting)).scalar_one() >= max_queued:
                    return None
            clips = job.request.options.reference_clips
            row = {name: getattr(job, name) for name in Job.model_fields}
            row["request"] = job.request.with_reference_clips([CLIP_APART] * len(clips))
            first: EventType = "queued" if job.state is JobState.QUEUED else "started"
            await connection.execute(
                insert(jobs).values(
                    **row,
                    clips=clips if clips and job.mode == "async" else None,  # nothing claims others
                    fingerprint=job.request.fingerprint,
                    priority=PRIORITIES[job.request.priority],
                    due_at=job.created_at,
                    events=1,
                )
            )
            await self._journal.record(connection, job, 1, first, job.created_at)
            return AddedJob(job, True)

        try:
            return await self._database.write(add)
        except IntegrityError:  # another manager was adding its twin: it is there now
            return await self._database.write(add)

    async def known(self, job: Job) -> AddedJob | None:
        """The job there is with that id, or with that owner and idempotency key."""
        rows = await self._database.read(_select_duplicates(job))
        return _compare_request(job, rows[0] if rows else None)

    async def get(self, job_id: str) -> Job | None:
        """One job."""
        found = await self._read(select(*JOB).where(jobs.c.id == job_id))
        return found[0] if found else None

    async def transcript(self, job_id: str) -> Transcript | None:
        """Return the transcript of a job."""
        rows = await self._database.read(select(jobs.c.transcript).where(jobs.c.id == job_id))
        transcript: Transcript | None = rows[0]["transcript"] if rows else None
        return transcript

    async def page(
        self, state: JobState | None, limit: int, after: Position | None, webhook: WebhookState | None = None
    ) -> tuple[Job, ...]:
        """At most `limit` jobs, newest first, older than the position `after`."""
        query = select(*JOB).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if webhook is not None:
            query = query.where(jobs.c.webhook == webhook)
        if after is not None:
            query = query.where(tuple_(jobs.c.created_at, jobs.c.id) < tuple_(*after, types=(Utc, jobs.c.id.type)))
        return await self._read(query)

    async def active(self) -> tuple[str, ...]:
        """The ids of the jobs that have not ended, oldest first."""
        query = select(jobs.c.id).where(jobs.c.state.in_(ACTIVE)).order_by(jobs.c.created_at, jobs.c.id)
        return tuple(row["id"] for row in await self._database.read(query))

    async def blob_keys(self) -> set[str]:
        """The keys of the blobs that jobs which have not ended need."""
        active = await self._read(select(*JOB).where(jobs.c.state.in_(ACTIVE)))
        return {job.request.source.key for job in active if isinstance(job.request.source, BlobSource)}

    async def stranded(self, holder: str, now: datetime) -> tuple[Job, ...]:
        """Asynchronous jobs that are said to be run by `holder`, or by somebody whose lease is over."""
        nobodys = or_(jobs.c.holder == holder, jobs.c.leased_until < now)
        return await self._read(select(*JOB).where(jobs.c.state == JobState.RUNNING, jobs.c.mode == "async", nobodys))

    async def overdue(self, created_before: datetime) -> tuple[Job, ...]:
        """Synchronous jobs that run for too long to have a client still."""
        return await self._read(
            select(*JOB).where(
                jobs.c.state == JobState.RUNNING, jobs.c.mode == "sync", jobs.c.created_at < created_before
            )
        )

    async def claim(self, holder: str, now: datetime, leased_until: datetime) -> Job | None:
        """Set a job running under a lease: of the highest priority, of the owner whose turn it is, the oldest.

        Only this job has known speakers' clips, for its run.
        """

        async def claim(connection: AsyncConnection) -> Job | None:
            due = (jobs.c.state == JobState.QUEUED) & (jobs.c.due_at <= now)
            highest = (await connection.execute(select(func.max(jobs.c.priority)).where(due))).scalar()
            if highest is None:
                return None
            due &= jobs.c.priority == highest
            waiting = select(jobs.c.owner, func.min(jobs.c.due_at, type_=Utc)).where(due).group_by(jobs.c.owner)
            running = (
                select(jobs.c.owner, func.count())
                .where(jobs.c.state == JobState.RUNNING, jobs.c.mode == "async")
                .group_by(jobs.c.owner)
            )
            owner = next_owner(
                dict((await connection.execute(waiting)).all()),
                dict((await connection.execute(running)).all()),
            )
            # Another manager may be taking the same one: then the next.
            oldest = (
                select(jobs.c.id)
                .where(due, jobs.c.owner == owner)
                .order_by(jobs.c.due_at)
                .limit(1)
                .with_for_update(skip_locked=True)
                .scalar_subquery()
            )
            job = await self._journal.update_and_record(
                connection,
                update(jobs)
                .where(jobs.c.id == oldest, jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.RUNNING,
                    started_at=now,
                    holder=holder,
                    leased_until=leased_until,
                    attempts=jobs.c.attempts + 1,
                ),
                "started",
                now,
            )
            if job is None or not job.request.options.reference_clips:
                return job
            clips = (await connection.execute(select(jobs.c.clips).where(jobs.c.id == job.id))).scalar_one()
            return job.model_copy(update={"request": job.request.with_reference_clips(clips or ())})

        return await self._database.write(claim)

    async def renew(self, runs: Mapping[str, int], holder: str, until: datetime) -> set[str]:
        """Of the runs (job and attempt), those that `holder` still has, leased on."""

        async def renew(connection: AsyncConnection) -> set[str]:
            mine = jobs.c.holder == holder, jobs.c.state == JobState.RUNNING, jobs.c.id.in_(runs)
            rows = await connection.execute(
                update(jobs).where(*mine).values(leased_until=until).returning(jobs.c.id, jobs.c.attempts)
            )
            return {job_id for job_id, attempts in rows if runs[job_id] == attempts}

        return await self._database.write(renew)

    async def requeue(self, job: Job, now: datetime, due_at: datetime, failures: int, losses: int) -> Job | None:
        """Put a run's job back into the queue, not to be run before `due_at`."""
        values = {"state": JobState.QUEUED, "started_at": None, "due_at": due_at, "holder": None}
        return await self._run_changes(
            job.id, job.attempts, "queued", now, values | {"failures": failures, "losses": losses}
        )

    async def progress(self, job_id: str, attempt: int, fraction: float, now: datetime) -> Job | None:
        """A run is so far, 0 to 1; it never goes back."""
        higher = jobs.c.progress < fraction
        return await self._run_changes(job_id, attempt, "progress", now, {"progress": fraction}, higher)

    async def keep(self, job_id: str, attempt: int, number: int, content: str) -> bool:
        """Keep a block that a run has done, for the next if this one is lost; False: the run is over."""

        async def keep(connection: AsyncConnection) -> bool:
            held = await connection.execute(
                update(jobs).where(*_run(job_id, attempt)).values(losses=0).returning(jobs.c.id)
            )
            if held.first() is None:
                return False
            own = blocks.c.job_id == job_id, blocks.c.number == number
            await connection.execute(delete(blocks).where(*own))
            await connection.execute(insert(blocks).values(job_id=job_id, number=number, content=content))
            return True

        return await self._database.write(keep)

    async def kept(self, job_id: str) -> dict[int, str]:
        """The blocks of a job that were kept, by their numbers."""
        rows = await self._database.read(select(blocks).where(blocks.c.job_id == job_id))
        return {row["number"]: row["content"] for row in rows}

    async def end(
        self,
        job_id: str,
        state: JobState,
        now: datetime,
        *,
        attempt: int | None = None,
        expected: Collection[JobState] = (JobState.RUNNING,),
        error: JobError | None = None,
        transcript: Transcript | None = None,
    ) -> Job | None:
        """Move a job to a terminal state, and in the same breath ask for its webhook; null `attempt`: any run."""

        async def end(connection: AsyncConnection) -> Job | None:
            where = [jobs.c.id == job_id, jobs.c.state.in_(expected)]
            if attempt is not None:
                where.append(jobs.c.attempts == attempt)
            values: dict[str, Any] = {
                "state": state,
                "finished_at": now,
                "holder": None,
                "error": error,
                "clips": None,
            }
            if transcript is not None:
                values |= {"progress": 1.0, "transcript": transcript, "timings": transcript.timings}
            ended = await self._journal.update_and_record(
                connection, update(jobs).where(*where).values(values), FINAL_EVENTS[state], now, transcript
            )
            if ended is not None:
                await connection.execute(delete(blocks).where(blocks.c.job_id == job_id))
            return ended

        return await self._database.write(end)

    async def delete(self, job_id: str) -> Job | None:
        """Forget a job that has ended."""
        rows = await self._forget(delete(jobs).where(jobs.c.id == job_id, jobs.c.state.not_in(ACTIVE)))
        return rows[0] if rows else None

    async def purge(self, finished_before: datetime) -> tuple[Job, ...]:
        """Forget the jobs that ended before a time, but none with a webhook still to be sent."""
        pending = select(deliveries.c.job_id).where(deliveries.c.state == "pending")
        return await self._forget(delete(jobs).where(jobs.c.finished_at < finished_before, jobs.c.id.not_in(pending)))

    async def _read(self, query: Select[Any]) -> tuple[Job, ...]:
        return tuple(map(row_to_job, await self._database.read(query)))

    async def _run_changes(
        self,
        job_id: str,
        attempt: int,
        event: EventType,
        now: datetime,
        values: Mapping[str, Any],
        *conditions: Any,
    ) -> Job | None:
        statement = update(jobs).where(*_run(job_id, attempt), *conditions).values(values)
        return await self._database.write(
            lambda connection: self._journal.update_and_record(connection, statement, event, now)
        )

    async def _forget(self, statement: Delete) -> tuple[Job, ...]:
        async def forget(connection: AsyncConnection) -> tuple[Job, ...]:
            return tuple(map(row_to_job, (await connection.execute(statement.returning(*JOB))).mappings()))

        return await self._database.write(forget)


def _run(job_id: str, attempt: int) -> tuple[Any, ...]:
    return jobs.c.id == job_id, jobs.c.attempts == attempt, jobs.c.state == JobState.RUNNING


def _select_duplicates(job: Job) -> Select[Any]:
    twin = jobs.c.id == job.id
    if job.idempotency_key is not None:
        twin = or_(twin, (jobs.c.owner == job.owner) & (jobs.c.idempotency_key == job.idempotency_key))
    return select(*JOB, jobs.c.fingerprint).where(twin).order_by(jobs.c.id != job.id)


def _compare_request(job: Job, row: RowMapping | None) -> AddedJob | None:
    if row is None:
        return None
    same = row["fingerprint"] == job.request.fingerprint and row["owner"] == job.owner
    return AddedJob(row_to_job(row), False, same)
