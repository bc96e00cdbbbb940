import asyncio
from datetime import datetime, timedelta

from serve_app.jobs.db.deliveries import Delivery, Outbox
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import ACTIVE
from serve_app.schemas.job import DeliveryAttempt, JobState
from serve_app.schemas.request import Webhook
from tests.jobs.helpers import LATER, NOW, TRANSCRIPT, claimed, queued

REFUSED = DeliveryAttempt(at=NOW, seconds=0.25, status=500)
BROKEN = DeliveryAttempt(at=LATER, seconds=15.0, error="TimeoutError()")
TAKEN = DeliveryAttempt(at=LATER, seconds=0.125, status=204)


async def ended_job(store: JobStore, runs: RunStore, host: str = "example.com", at: datetime = NOW) -> str:
    await store.add(job := queued(webhook=Webhook(url=f"https://{host}/done")))
    await runs.end(job.id, JobState.CANCELLED, at, expected=ACTIVE)
    return job.id


async def claim(outbox: Outbox) -> Delivery:
    delivery = await outbox.claim(NOW, NOW, ())
    assert delivery is not None
    return delivery


async def webhook_of(store: JobStore, job_id: str) -> str | None:
    job = await store.get(job_id, "")
    assert job is not None
    return job.webhook


async def test_a_claimed_delivery_comes_back_if_nobody_reports(
    store: JobStore, runs: RunStore, database: Database
) -> None:
    outbox, job_id = Outbox(database), await ended_job(store, runs)
    assert await outbox.claim(NOW - timedelta(seconds=1), LATER, ()) is None
    first = await outbox.claim(NOW, LATER, ())
    assert first is not None
    assert (first.job.id, first.number, first.host) == (job_id, 1, "example.com")
    assert await outbox.claim(NOW, LATER, ()) is None
    second = await outbox.claim(LATER, LATER, ())
    assert second is not None
    assert (second.id, second.number, second.body) == (first.id, 2, first.body)
    await outbox.report(second, "delivered", TAKEN)
    await outbox.report(first, "failed", REFUSED)
    assert await webhook_of(store, job_id) == "delivered"
    assert await outbox.claim(LATER, LATER, ()) is None


async def test_the_longest_due_goes_first_but_to_no_busy_host(
    store: JobStore, runs: RunStore, database: Database
) -> None:
    outbox = Outbox(database)
    jobs = [
        await ended_job(store, runs, host, NOW + timedelta(seconds=age)) for host, age in (("b", 1), ("c", 2), ("a", 0))
    ]
    found = [await outbox.claim(LATER, LATER + timedelta(hours=1), busy) for busy in (("a", "x"), (), ("c",), ())]
    assert [delivery and delivery.job.id for delivery in found] == [jobs[0], jobs[2], None, jobs[1]]


async def test_every_try_is_logged(store: JobStore, runs: RunStore, database: Database) -> None:
    outbox, job_id = Outbox(database), await ended_job(store, runs)
    await outbox.report(await claim(outbox), "pending", REFUSED, NOW)
    await outbox.report(await claim(outbox), "pending", None, NOW)  # broken off: no try
    again = await claim(outbox)
    assert again.number == 2
    await outbox.report(again, "pending", BROKEN, NOW)
    [waiting] = await outbox.list_deliveries(job_id)
    assert (waiting.state, waiting.due_at, waiting.tries) == ("pending", NOW, (REFUSED, BROKEN))
    await outbox.report(await claim(outbox), "delivered", TAKEN)
    [delivered] = await outbox.list_deliveries(job_id)
    assert (delivered.event, delivered.state, delivered.due_at) == ("cancelled", "delivered", None)
    assert delivered.tries == (REFUSED, BROKEN, TAKEN)
    assert await outbox.list_deliveries("unknown") == ()


async def test_what_is_over_is_sent_again_from_the_start_of_its_schedule(
    store: JobStore, runs: RunStore, database: Database
) -> None:
    outbox, job_id = Outbox(database), await ended_job(store, runs)
    assert await outbox.redeliver(job_id, None, NOW) == 0, "it is pending still"
    first = await claim(outbox)
    await outbox.report(first, "failed", REFUSED)
    assert await webhook_of(store, job_id) == "failed"
    assert await outbox.redeliver(job_id, "msg_unknown", NOW) == 0
    assert await outbox.redeliver("unknown", first.id, NOW) == 0
    assert await outbox.redeliver(job_id, first.id, NOW) == 1
    assert await webhook_of(store, job_id) == "pending"
    again = await claim(outbox)
    assert (again.id, again.number, again.body) == (first.id, 1, first.body)
    await outbox.report(again, "delivered", TAKEN)
    assert await webhook_of(store, job_id) == "delivered"
    [view] = await outbox.list_deliveries(job_id)
    assert view.tries == (REFUSED, TAKEN)


async def test_only_the_news_of_the_end_is_the_job_s_webhook(
    store: JobStore, runs: RunStore, database: Database
) -> None:
    outbox, webhook = Outbox(database), Webhook(url="https://example.com", events=("started", "completed"))
    await store.add(queued(webhook=webhook))
    run = await claimed(runs)
    await outbox.report(await claim(outbox), "failed", REFUSED)
    assert await webhook_of(store, run.id) is None
    await runs.end(run.id, JobState.SUCCEEDED, NOW, transcript=TRANSCRIPT)
    await outbox.report(await claim(outbox), "delivered", TAKEN)
    assert [(view.event, view.state) for view in await outbox.list_deliveries(run.id)] == [
        ("started", "failed"),
        ("completed", "delivered"),
    ]
    assert await outbox.redeliver(run.id, f"msg_{run.id}_2", NOW) == 1
    assert await webhook_of(store, run.id) == "delivered"
    assert await store.list("", None, 10, None, "delivered") != ()
    assert await store.purge(LATER) == (), "one is still to be sent"
    assert await outbox.redeliver(run.id, None, NOW) == 1
    assert await webhook_of(store, run.id) == "pending"


async def test_two_processes_never_claim_the_same(
    store: JobStore, runs: RunStore, database: Database, database_url: str
) -> None:
    other = await Database.open(database_url)
    jobs = [await ended_job(store, runs) for _ in range(30)]
    outboxes = [Outbox(database), Outbox(other)] * 20
    found = await asyncio.gather(*(outbox.claim(NOW, LATER, ()) for outbox in outboxes))
    assert sorted(delivery.job.id for delivery in found if delivery) == sorted(jobs)
    await other.close()
