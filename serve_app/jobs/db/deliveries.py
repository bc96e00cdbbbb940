"""The outbox: webhook deliveries and every attempt to send them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import JOB_COLUMNS, row_to_job
from serve_app.jobs.db.tables import deliveries, delivery_attempts, jobs
from serve_app.schemas.job import DeliveryAttempt, DeliveryView, Job, WebhookState

_TERMINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Delivery:
    """One attempt to send a webhook, `number` of its schedule, from 1. `id` is the same for every attempt."""

    id: str
    job: Job
    host: str
    body: str
    number: int


class Outbox:
    """The deliveries table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, now: datetime, retry_at: datetime, busy_hosts: Collection[str]) -> Delivery | None:
        """Return the pending delivery that has been due longest, to a host that is not in `busy_hosts`.

        It becomes due again at `retry_at` unless `report` is called first.
        """
        oldest = (
            select(deliveries.c.id)
            .where(deliveries.c.state == "pending", deliveries.c.due_at <= now, deliveries.c.host.not_in(busy_hosts))
            .order_by(deliveries.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )

        async def claim(connection: AsyncConnection) -> Delivery | None:
            claimed = await connection.execute(
                update(deliveries)
                .where(deliveries.c.id == oldest)
                .values(due_at=retry_at, tries=deliveries.c.tries + 1)
                .returning(deliveries)
            )
            row = claimed.mappings().first()
            if row is None:
                return None
            job = (await connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == row["job_id"]))).mappings().one()
            return Delivery(row["id"], row_to_job(job), row["host"], row["body"], row["tries"])

        return await self._database.write(claim)

    async def report(
        self, delivery: Delivery, state: WebhookState, attempt: DeliveryAttempt | None, due_at: datetime | None = None
    ) -> None:
        """Store the result of an attempt and the time of the next; null: it was cancelled and is not counted."""

        async def report(connection: AsyncConnection) -> None:
            values: dict[str, Any] = {"state": state, "due_at": due_at}
            if attempt is None:
                values["tries"] = deliveries.c.tries - 1
            reported = await connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery.id, deliveries.c.state == "pending")
                .values(values)
                .returning(deliveries.c.event)
            )
            event = reported.scalar()
            if event is None:
                return
            if attempt is not None:
                await _add_attempt(connection, delivery.id, attempt)
            if event in _TERMINAL:
                await connection.execute(update(jobs).where(jobs.c.id == delivery.job.id).values(webhook=state))

        await self._database.write(report)

    async def list_deliveries(self, job_id: str) -> tuple[DeliveryView, ...]:
        """Return a job's deliveries with every attempt, oldest first."""
        is_of_job = deliveries.c.job_id == job_id
        rows = await self._database.read(
            select(deliveries).where(is_of_job).order_by(deliveries.c.created_at, deliveries.c.id)
        )
        attempts: dict[str, list[DeliveryAttempt]] = {row["id"]: [] for row in rows}
        order = delivery_attempts.c.delivery_id, delivery_attempts.c.number
        query = select(delivery_attempts).join(deliveries).where(is_of_job).order_by(*order)
        for row in await self._database.read(query):
            attempts[row["delivery_id"]].append(
                DeliveryAttempt(**{name: row[name] for name in DeliveryAttempt.model_fields})
            )
        fields = [name for name in DeliveryView.model_fields if name != "tries"]
        return tuple(
            DeliveryView(**{name: row[name] for name in fields}, tries=tuple(attempts[row["id"]])) for row in rows
        )

    async def redeliver(self, job_id: str, delivery_id: str | None, now: datetime) -> int:
        """Restart the schedule of a finished delivery, or of all the job's finished deliveries; return their count."""

        async def restart(connection: AsyncConnection) -> int:
            where = [deliveries.c.job_id == job_id, deliveries.c.state != "pending"]
            if delivery_id is not None:
                where.append(deliveries.c.id == delivery_id)
            restarted = await connection.execute(
                update(deliveries)
                .where(*where)
                .values(state="pending", due_at=now, tries=0)
                .returning(deliveries.c.event)
            )
            events = list(restarted.scalars())
            if any(event in _TERMINAL for event in events):
                await connection.execute(update(jobs).where(jobs.c.id == job_id).values(webhook="pending"))
            return len(events)

        return await self._database.write(restart)


async def _add_attempt(connection: AsyncConnection, delivery_id: str, attempt: DeliveryAttempt) -> None:
    number = delivery_attempts.c.number
    latest = select(number).where(delivery_attempts.c.delivery_id == delivery_id).order_by(number.desc()).limit(1)
    last = (await connection.execute(latest)).scalar() or 0
    values = {name: getattr(attempt, name) for name in DeliveryAttempt.model_fields}
    await connection.execute(insert(delivery_attempts).values(delivery_id=delivery_id, number=last + 1, **values))
