"""The event log of jobs: a change, its event and its webhook delivery are written in one transaction."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, Update, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.tables import HOST_CHARACTERS, deliveries, events, jobs
from serve_app.jobs.webhooks.payload import WebhookPayload, is_subscribed, webhook_body
from serve_app.schemas.job import EventType, Job, JobEvent
from serve_app.schemas.transcript import Transcript

JOB_COLUMNS = tuple(jobs.c[name] for name in Job.model_fields)
"""The columns that make up a `Job`."""

_EVENT = tuple(JobEvent.model_fields)


def row_to_job(row: RowMapping) -> Job:
    """Return the job in a row with `JOB_COLUMNS`."""
    return Job(**{column.key: row[column] for column in JOB_COLUMNS})


async def events_after(database: Database, job_id: str, after: int) -> tuple[JobEvent, ...]:
    """Return a job's events with numbers above `after`, in order."""
    query = select(events).where(events.c.job_id == job_id, events.c.number > after).order_by(events.c.number)
    return tuple(JobEvent(**{name: row[name] for name in _EVENT}) for row in await database.read(query))


class EventLog:
    """Records events. The first attempt at a webhook is due `delay_s` after its event."""

    def __init__(self, webhook_payloads: Mapping[str, WebhookPayload], delay_s: float = 0.0) -> None:
        self._delay = timedelta(seconds=delay_s)
        self._webhook_payloads = webhook_payloads

    async def update_and_record(
        self,
        connection: AsyncConnection,
        statement: Update,
        event: EventType,
        now: datetime,
        transcript: Transcript | None = None,
    ) -> Job | None:
        """Update one job and record the event. None if no job matches the statement."""
        counted = statement.values(events=jobs.c.events + 1).returning(*JOB_COLUMNS, jobs.c.events)
        row = (await connection.execute(counted)).mappings().first()
        if row is None:
            return None
        job = row_to_job(row)
        has_webhook = await self.record(connection, job, row["events"], event, now, transcript)
        if not (has_webhook and job.state.terminal):
            return job
        await connection.execute(update(jobs).where(jobs.c.id == job.id).values(webhook="pending"))
        return job.model_copy(update={"webhook": "pending"})

    async def record(
        self,
        connection: AsyncConnection,
        job: Job,
        number: int,
        event: EventType,
        now: datetime,
        transcript: Transcript | None = None,
    ) -> bool:
        """Record an event, and a webhook delivery if the job is subscribed to it. Return whether it is."""
        recorded = JobEvent(
            number=number,
            type=event,
            at=now,
            status=job.state,
            progress=job.progress,
            attempts=job.attempts,
            error=job.error,
        )
        values = {name: getattr(recorded, name) for name in _EVENT}
        await connection.execute(insert(events).values(job_id=job.id, **values))
        webhook = job.request.webhook
        if webhook is None or not is_subscribed(job, event):
            return False
        await connection.execute(
            insert(deliveries).values(
                id=f"msg_{job.id}_{number}",
                job_id=job.id,
                event=event,
                # `raw_host`: some names cannot be decoded. Truncated: the zone of an IPv6 address may be of any length.
                host=(URL(webhook.url).raw_host or "")[:HOST_CHARACTERS],
                body=webhook_body(self._webhook_payloads, job, event, now, transcript),
                state="pending",
                tries=0,
                created_at=now,
                due_at=now + self._delay,
            )
        )
        return True
