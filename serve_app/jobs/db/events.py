"""The event log of jobs: the event of a change and its webhook are written in the transaction of the change."""

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

JOB = tuple(jobs.c[name] for name in Job.model_fields)
"""The columns of a job as others know it."""

_EVENT = tuple(JobEvent.model_fields)


def row_to_job(row: RowMapping) -> Job:
    """The job in a row that has these columns."""
    return Job(**{column.name: row[column.name] for column in JOB})


async def events_after(database: Database, job_id: str, after: int) -> tuple[JobEvent, ...]:
    """A job's events after the one of that number, in order."""
    query = select(events).where(events.c.job_id == job_id, events.c.number > after).order_by(events.c.number)
    return tuple(JobEvent(**{name: row[name] for name in _EVENT}) for row in await database.read(query))


class EventLog:
    """Writes down what happens. The first try at a webhook is due `delay_s` after what it tells of."""

    def __init__(self, delay_s: float, webhook_payloads: Mapping[str, WebhookPayload]) -> None:
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
        """Change one job, and tell of it. None: no job was as the statement expects it."""
        counted = statement.values(events=jobs.c.events + 1).returning(*JOB, jobs.c.events)
        row = (await connection.execute(counted)).mappings().first()
        if row is None:
            return None
        job = row_to_job(row)
        asked = await self.record(connection, job, row["events"], event, now, transcript)
        if not (asked and job.state.terminal):
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
        """Write down a job's event of that number, and the webhook if its client wants one: whether it does."""
        told = JobEvent(
            number=number,
            type=event,
            at=now,
            status=job.state,
            progress=job.progress,
            attempts=job.attempts,
            error=job.error,
        )
        values = {name: getattr(told, name) for name in _EVENT}
        await connection.execute(insert(events).values(job_id=job.id, **values))
        webhook = job.request.webhook
        if webhook is None or not is_subscribed(job, event):
            return False
        await connection.execute(
            insert(deliveries).values(
                id=f"msg_{job.id}_{number}",
                job_id=job.id,
                event=event,
                # Raw, for a name may have no other spelling; an IPv6 address's zone may be of any length.
                host=(URL(webhook.url).raw_host or "")[:HOST_CHARACTERS],
                body=webhook_body(self._webhook_payloads, job, event, now, transcript),
                state="pending",
                tries=0,
                created_at=now,
                due_at=now + self._delay,
            )
        )
        return True
