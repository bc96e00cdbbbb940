"""Runs of jobs in the database: leases, retries, progress, saved blocks and the end.

A change is one UPDATE guarded by the state and the attempt that it expects, so that a report of an earlier run
changes nothing. It is committed together with its event and webhook. Methods return the changed job, or None.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import JOB_COLUMNS, EventLog, row_to_job
from serve_app.jobs.db.tables import Utc, blocks, jobs
from serve_app.jobs.fair_queue import next_owner
from serve_app.jobs.webhooks.payload import FINAL_EVENTS
from serve_app.schemas.job import EventType, Job, JobError, JobState
from serve_app.schemas.transcript import Transcript


class RunStore:
    """The runs of jobs, in the jobs table, and their saved blocks."""

    def __init__(self, database: Database, event_log: EventLog) -> None:
        self._database = database
        self._event_log = event_log

    async def get(self, job_id: str) -> Job | None:
        """Return one job."""
        rows = await self._database.read(select(*JOB_COLUMNS).where(jobs.c.id == job_id))
        return row_to_job(rows[0]) if rows else None

    async def orphaned(self, lease_owner: str, now: datetime) -> tuple[Job, ...]:
        """Return running asynchronous jobs that are leased to `lease_owner`, or whose lease has expired."""
        is_orphaned = or_(jobs.c.lease_owner == lease_owner, jobs.c.leased_until < now)
        rows = await self._database.read(
            select(*JOB_COLUMNS).where(jobs.c.state == JobState.RUNNING, jobs.c.mode == "async", is_orphaned)
        )
        return tuple(map(row_to_job, rows))

    async def claim(self, lease_owner: str, now: datetime, leased_until: datetime) -> Job | None:
        """Start a run of the next due job: highest priority, then fairest owner, then longest due.

        Only the job returned here includes the clips of known speakers, which its run needs.
        """

        async def claim(connection: AsyncConnection) -> Job | None:
            is_due = (jobs.c.state == JobState.QUEUED) & (jobs.c.due_at <= now)
            highest = (await connection.execute(select(func.max(jobs.c.priority)).where(is_due))).scalar()
            if highest is None:
                return None
            is_due &= jobs.c.priority == highest
            waiting = select(jobs.c.owner, func.min(jobs.c.due_at, type_=Utc)).where(is_due).group_by(jobs.c.owner)
            running = (
                select(jobs.c.owner, func.count())
                .where(jobs.c.state == JobState.RUNNING, jobs.c.mode == "async")
                .group_by(jobs.c.owner)
            )
            owner = next_owner(
                dict((await connection.execute(waiting)).all()),
                dict((await connection.execute(running)).all()),
            )
            # Skip a row that another manager is claiming.
            oldest = (
                select(jobs.c.id)
                .where(is_due, jobs.c.owner == owner)
                .order_by(jobs.c.due_at)
                .limit(1)
                .with_for_update(skip_locked=True)
                .scalar_subquery()
            )
            job = await self._event_log.update_and_record(
                connection,
                update(jobs)
                .where(jobs.c.id == oldest, jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.RUNNING,
                    started_at=now,
                    lease_owner=lease_owner,
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

    async def renew_leases(self, runs: Mapping[str, int], lease_owner: str, until: datetime) -> set[str]:
        """Extend the leases of the runs (attempt by job id) that `lease_owner` still holds; return their jobs' ids."""

        async def renew(connection: AsyncConnection) -> set[str]:
            is_mine = jobs.c.lease_owner == lease_owner, jobs.c.state == JobState.RUNNING, jobs.c.id.in_(runs)
            rows = await connection.execute(
                update(jobs).where(*is_mine).values(leased_until=until).returning(jobs.c.id, jobs.c.attempts)
            )
            return {job_id for job_id, attempts in rows if runs[job_id] == attempts}

        return await self._database.write(renew)

    async def requeue(self, job: Job, now: datetime, due_at: datetime, failed_runs: int, lost_runs: int) -> Job | None:
        """Return the job of a run to the queue, to be run at `due_at` or later."""
        values = {
            "state": JobState.QUEUED,
            "started_at": None,
            "due_at": due_at,
            "lease_owner": None,
            "failed_runs": failed_runs,
            "lost_runs": lost_runs,
        }
        return await self._update_run(job.id, job.attempts, "queued", now, values)

    async def update_progress(self, job_id: str, attempt: int, fraction: float, now: datetime) -> Job | None:
        """Raise the progress of a run to `fraction`, 0 to 1."""
        is_lower = jobs.c.progress < fraction
        return await self._update_run(job_id, attempt, "progress", now, {"progress": fraction}, is_lower)

    async def save_block(self, job_id: str, attempt: int, number: int, content: str) -> bool:
        """Save a finished block of a run and reset the job's count of lost runs. False if the run has ended."""

        async def save(connection: AsyncConnection) -> bool:
            updated = await connection.execute(
                update(jobs).where(*_is_run(job_id, attempt)).values(lost_runs=0).returning(jobs.c.id)
            )
            if updated.first() is None:
                return False
            await connection.execute(delete(blocks).where(blocks.c.job_id == job_id, blocks.c.number == number))
            await connection.execute(insert(blocks).values(job_id=job_id, number=number, content=content))
            return True

        return await self._database.write(save)

    async def load_blocks(self, job_id: str) -> dict[int, str]:
        """Return the saved blocks of a job, by number."""
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
        """Move a job from an `expected` state to a final one and delete its blocks; null `attempt`: any run."""

        async def end(connection: AsyncConnection) -> Job | None:
            where = [jobs.c.id == job_id, jobs.c.state.in_(expected)]
            if attempt is not None:
                where.append(jobs.c.attempts == attempt)
            values: dict[str, Any] = {
                "state": state,
                "finished_at": now,
                "lease_owner": None,
                "error": error,
                "clips": None,
            }
            if transcript is not None:
                values |= {"progress": 1.0, "transcript": transcript, "timings": transcript.timings}
            ended = await self._event_log.update_and_record(
                connection, update(jobs).where(*where).values(values), FINAL_EVENTS[state], now, transcript
            )
            if ended is not None:
                await connection.execute(delete(blocks).where(blocks.c.job_id == job_id))
            return ended

        return await self._database.write(end)

    async def _update_run(
        self,
        job_id: str,
        attempt: int,
        event: EventType,
        now: datetime,
        values: Mapping[str, Any],
        *conditions: Any,
    ) -> Job | None:
        statement = update(jobs).where(*_is_run(job_id, attempt), *conditions).values(values)
        return await self._database.write(
            lambda connection: self._event_log.update_and_record(connection, statement, event, now)
        )


def _is_run(job_id: str, attempt: int) -> tuple[Any, ...]:
    return jobs.c.id == job_id, jobs.c.attempts == attempt, jobs.c.state == JobState.RUNNING
