"""Webhooks that are to be sent, and every try at them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import JOB, row_to_job
from serve_app.jobs.db.tables import deliveries, jobs, tries
from serve_app.schemas.job import DeliveryAttempt, DeliveryView, Job, WebhookState

_TERMINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Delivery:
    """One try at a webhook, the `number`-th of its schedule, from 1. `id` is the same on every try."""

    id: str
    job: Job
    host: str
    body: str
    number: int


class Outbox:
    """The table of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, now: datetime, again_at: datetime, busy: Collection[str]) -> Delivery | None:
        """The pending delivery that has been due longest, to a host that is not `busy`.

        Due again at `again_at` if nobody reports on it.
        """
        oldest = (
            select(deliveries.c.id)
            .where(deliveries.c.state == "pending", deliveries.c.due_at <= now, deliveries.c.host.not_in(busy))
            .order_by(deliveries.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )

        async def claim(connection: AsyncConnection) -> Delivery | None:
            claimed = await connection.execute(
                update(deliveries)
                .where(deliveries.c.id == oldest)
                .values(due_at=again_at, tries=deliveries.c.tries + 1)
                .returning(deliveries)
            )
            row = claimed.mappings().first()
            if row is None:
                return None
            job = (await connection.execute(select(*JOB).where(jobs.c.id == row["job_id"]))).mappings().one()
            return Delivery(row["id"], row_to_job(job), row["host"], row["body"], row["tries"])

        return await self._database.write(claim)

    async def report(
        self, delivery: Delivery, state: WebhookState, attempt: DeliveryAttempt | None, due_at: datetime | None = None
    ) -> None:
        """Say how a try went, and when the next is due; a null `attempt` was none, and is not counted."""

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
                await _log(connection, delivery.id, attempt)
            if event in _TERMINAL:
                await connection.execute(update(jobs).where(jobs.c.id == delivery.job.id).values(webhook=state))

        await self._database.write(report)

    async def of(self, job_id: str) -> tuple[DeliveryView, ...]:
        """A job's deliveries with every try, oldest first."""
        own = deliveries.c.job_id == job_id
        rows = await self._database.read(
            select(deliveries).where(own).order_by(deliveries.c.created_at, deliveries.c.id)
        )
        made: dict[str, list[DeliveryAttempt]] = {row["id"]: [] for row in rows}
        query = select(tries).join(deliveries).where(own).order_by(tries.c.delivery_id, tries.c.number)
        for row in await self._database.read(query):
            made[row["delivery_id"]].append(
                DeliveryAttempt(**{name: row[name] for name in DeliveryAttempt.model_fields})
            )
        shown = [name for name in DeliveryView.model_fields if name != "tries"]
        return tuple(DeliveryView(**{name: row[name] for name in shown}, tries=tuple(made[row["id"]])) for row in rows)

    async def redeliver(self, job_id: str, delivery_id: str | None, now: datetime) -> int:
        """Begin a delivery's schedule anew, or that of all the job's which have ended: how many."""

        async def again(connection: AsyncConnection) -> int:
            chosen = [deliveries.c.job_id == job_id, deliveries.c.state != "pending"]
            if delivery_id is not None:
                chosen.append(deliveries.c.id == delivery_id)
            begun = await connection.execute(
                update(deliveries)
                .where(*chosen)
                .values(state="pending", due_at=now, tries=0)
                .returning(deliveries.c.event)
            )
            found = list(begun.scalars())
            if any(event in _TERMINAL for event in found):
                await connection.execute(update(jobs).where(jobs.c.id == job_id).values(webhook="pending"))
            return len(found)

        return await self._database.write(again)


async def _log(connection: AsyncConnection, delivery_id: str, attempt: DeliveryAttempt) -> None:
    own = select(tries.c.number).where(tries.c.delivery_id == delivery_id)
    last = (await connection.execute(own.order_by(tries.c.number.desc()).limit(1))).scalar() or 0
    values = {name: getattr(attempt, name) for name in DeliveryAttempt.model_fields}
    await connection.execute(insert(tries).values(delivery_id=delivery_id, number=last + 1, **values))
