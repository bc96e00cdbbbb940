import asyncio
from datetime import datetime, timedelta

from serve_app.jobs.db.deliveries import Delivery, Outbox
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import ACTIVE
from serve_app.schemas.job import DeliveryAttempt, JobState
from serve_app.schemas.request import Webhook
from tests.jobs.helpers import LATER, NOW, TRANSCRIPT, claim_job, queued_job

REFUSED = DeliveryAttempt(at=NOW, seconds=0.25, status=500)
BROKEN = DeliveryAttempt(at=LATER, seconds=15.0, error="TimeoutError()")
ACCEPTED = DeliveryAttempt(at=LATER, seconds=0.125, status=204)


async def add_ended_job(store: JobStore, runs: RunStore, host: str = "example.com", at: datetime = NOW) -> str:
    await store.add(job := queued_job(webhook=Webhook(url=f"https://{host}/done")))
    await runs.end(job.id, JobState.CANCELLED, at, expected=ACTIVE)
    return job.id


async def claim_due(outbox: Outbox) -> Delivery:
    delivery = await outbox.claim(NOW, NOW, ())
    assert delivery is not None
    return delivery


async def webhook_state(store: JobStore, job_id: str) -> str | None:
    job = await store.get(job_id, "")
    assert job is not None
    return job.webhook


async def test_unreported_delivery_is_claimed_again(store: JobStore, runs: RunStore, database: Database) -> None:
    outbox, job_id = Outbox(database), await add_ended_job(store, runs)
    assert await outbox.claim(NOW - timedelta(seconds=1), LATER, ()) is None
    first = await outbox.claim(NOW, LATER, ())
    assert first is not None
    assert (first.job.id, first.number, first.host) == (job_id, 1, "example.com")
    assert await outbox.claim(NOW, LATER, ()) is None
    second = await outbox.claim(LATER, LATER, ())
    assert second is not None
    assert (second.id, second.number, second.body) == (first.id, 2, first.body)
    await outbox.report(second, "delivered", ACCEPTED)
    await outbox.report(first, "failed", REFUSED)
    assert await webhook_state(store, job_id) == "delivered"
    assert await outbox.claim(LATER, LATER, ()) is None


async def test_longest_due_delivery_to_an_idle_host_is_claimed(
    store: JobStore, runs: RunStore, database: Database
) -> None:
    outbox = Outbox(database)
    jobs = [
        await add_ended_job(store, runs, host, NOW + timedelta(seconds=age))
        for host, age in (("b", 1), ("c", 2), ("a", 0))
    ]
    found = [await outbox.claim(LATER, LATER + timedelta(hours=1), busy) for busy in (("a", "x"), (), ("c",), ())]
    assert [delivery and delivery.job.id for delivery in found] == [jobs[0], jobs[2], None, jobs[1]]


async def test_attempts_are_logged(store: JobStore, runs: RunStore, database: Database) -> None:
    outbox, job_id = Outbox(database), await add_ended_job(store, runs)
    await outbox.report(await claim_due(outbox), "pending", REFUSED, NOW)
    await outbox.report(await claim_due(outbox), "pending", None, NOW)  # interrupted, which is no attempt
    second = await claim_due(outbox)
    assert second.number == 2
    await outbox.report(second, "pending", BROKEN, NOW)
    [pending] = await outbox.list_deliveries(job_id)
    assert (pending.state, pending.due_at, pending.tries) == ("pending", NOW, (REFUSED, BROKEN))
    await outbox.report(await claim_due(outbox), "delivered", ACCEPTED)
    [delivered] = await outbox.list_deliveries(job_id)
    assert (delivered.event, delivered.state, delivered.due_at) == ("cancelled", "delivered", None)
    assert delivered.tries == (REFUSED, BROKEN, ACCEPTED)
    assert await outbox.list_deliveries("unknown") == ()


async def test_redelivery_restarts_the_schedule(store: JobStore, runs: RunStore, database: Database) -> None:
    outbox, job_id = Outbox(database), await add_ended_job(store, runs)
    assert await outbox.redeliver(job_id, None, NOW) == 0, "it is still pending"
    first = await claim_due(outbox)
    await outbox.report(first, "failed", REFUSED)
    assert await webhook_state(store, job_id) == "failed"
    assert await outbox.redeliver(job_id, "msg_unknown", NOW) == 0
    assert await outbox.redeliver("unknown", first.id, NOW) == 0
    assert await outbox.redeliver(job_id, first.id, NOW) == 1
    assert await webhook_state(store, job_id) == "pending"
    second = await claim_due(outbox)
    assert (second.id, second.number, second.body) == (first.id, 1, first.body)
    await outbox.report(second, "delivered", ACCEPTED)
    assert await webhook_state(store, job_id) == "delivered"
    [delivery] = await outbox.list_deliveries(job_id)
    assert delivery.tries == (REFUSED, ACCEPTED)


async def test_webhook_state_is_that_of_the_final_event(store: JobStore, runs: RunStore, database: Database) -> None:
    outbox, webhook = Outbox(database), Webhook(url="https://example.com", events=("started", "completed"))
    await store.add(queued_job(webhook=webhook))
    run = await claim_job(runs)
    await outbox.report(await claim_due(outbox), "failed", REFUSED)
    assert await webhook_state(store, run.id) is None
    await runs.end(run.id, JobState.SUCCEEDED, NOW, transcript=TRANSCRIPT)
    await outbox.report(await claim_due(outbox), "delivered", ACCEPTED)
    assert [(delivery.event, delivery.state) for delivery in await outbox.list_deliveries(run.id)] == [
        ("started", "failed"),
        ("completed", "delivered"),
    ]
    assert await outbox.redeliver(run.id, f"msg_{run.id}_2", NOW) == 1
    assert await webhook_state(store, run.id) == "delivered"
    assert await store.list("", None, 10, None, "delivered") != ()
    assert await store.purge(LATER) == (), "one delivery is pending"
    assert await outbox.redeliver(run.id, None, NOW) == 1
    assert await webhook_state(store, run.id) == "pending"


async def test_deliveries_are_claimed_once(
    store: JobStore, runs: RunStore, database: Database, database_url: str
) -> None:
    other = await Database.open(database_url)
    jobs = [await add_ended_job(store, runs) for _ in range(30)]
    outboxes = [Outbox(database), Outbox(other)] * 20
    found = await asyncio.gather(*(outbox.claim(NOW, LATER, ()) for outbox in outboxes))
    assert sorted(delivery.job.id for delivery in found if delivery) == sorted(jobs)
    await other.close()
