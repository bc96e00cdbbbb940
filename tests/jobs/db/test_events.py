import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from serve_app.errors import NotFound, Unavailable
from serve_app.jobs import lifecycle
from serve_app.jobs import manager as manager_module
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import events_after
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import ACTIVE, deliveries
from serve_app.jobs.manager import JobManager
from serve_app.schemas.job import Job, JobEvent, JobState
from serve_app.schemas.request import Webhook
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from tests.jobs.helpers import (
    NOW,
    TRANSCRIPT,
    Gate,
    OpenManager,
    claim_job,
    queued_job,
    request,
    succeed,
    wait_for_job,
    wait_for_webhook,
    with_jobs,
)

WEBHOOK = Webhook(url="https://example.com/done", events=("started", "progress", "completed"))


async def follow_events(manager: JobManager, job: Job) -> AsyncIterator[JobEvent]:
    """Yield all events of a job as a client reads them, until none are left."""
    after = 0
    while found := await manager.events(job.id, after, 30):
        for event in found:
            yield event
        after = found[-1].number


async def test_events_are_numbered_in_order(store: JobStore, runs: RunStore, database: Database) -> None:
    await store.add(job := queued_job())
    first = await claim_job(runs)
    await runs.update_progress(job.id, 1, 0.25, NOW)
    await runs.update_progress(job.id, 1, 0.125, NOW)
    await runs.requeue(first, NOW, NOW, 1, 0)
    await claim_job(runs)
    await runs.update_progress(job.id, 1, 0.75, NOW)
    await runs.update_progress(job.id, 2, 0.5, NOW)
    await runs.end(job.id, JobState.SUCCEEDED, NOW, attempt=1)
    await runs.end(job.id, JobState.SUCCEEDED, NOW, attempt=2, transcript=TRANSCRIPT)
    await runs.end(job.id, JobState.CANCELLED, NOW, expected=ACTIVE)
    events = await events_after(database, job.id, 0)
    assert [event.number for event in events] == list(range(1, 8))
    assert [(event.type, event.progress, event.attempts) for event in events] == [
        ("queued", 0, 0),
        ("started", 0, 1),
        ("progress", 0.25, 1),
        ("queued", 0.25, 1),
        ("started", 0.25, 2),
        ("progress", 0.5, 2),
        ("completed", 1, 2),
    ]
    assert await events_after(database, job.id, 5) == events[5:]
    await store.delete(job.id, "")
    assert await events_after(database, job.id, 0) == ()


async def test_concurrent_events_have_no_gaps(store: JobStore, runs: RunStore, database: Database) -> None:
    await store.add(queued_job())
    run = await claim_job(runs)
    await asyncio.gather(*(runs.update_progress(run.id, 1, number / 100, NOW) for number in range(1, 100)))
    events = await events_after(database, run.id, 0)
    assert [event.number for event in events] == list(range(1, 102))
    assert [event.progress for event in events] == sorted(event.progress for event in events)


@pytest.mark.slow
async def test_all_events_are_received(open_manager: OpenManager, settings: AppSettings) -> None:
    async def run(job: Job) -> Transcript:
        if job.attempts < 3:
            raise Unavailable("replica away")
        return TRANSCRIPT

    async with open_manager(run, with_jobs(settings, max_running=8)) as manager:
        jobs = [await manager.submit(request()) for _ in range(20)]

        async def event_types(job: Job) -> list[str]:
            return [event.type async for event in follow_events(manager, job)]

        for types in await asyncio.gather(*map(event_types, jobs)):
            assert types == ["queued", "started"] * 3 + ["completed"]


async def test_past_events_return_at_once_and_new_ones_are_awaited(
    open_manager: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "EVENTS_POLL_S", 60)
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request())
        await gate.wait_for_runs(1)
        assert [event.type for event in await manager.events(job.id, 0, 60)] == ["queued", "started"]
        assert await manager.events(job.id, 2, 0) == ()
        clock = time.monotonic()
        assert await manager.events(job.id, 2, 0.2) == ()
        assert time.monotonic() - clock >= 0.2
        waiting = asyncio.create_task(manager.events(job.id, 2, 60))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        gate.opened.set()
        [event] = await asyncio.wait_for(waiting, 10)
        assert (event.type, event.status) == ("completed", JobState.SUCCEEDED)
        assert await manager.events(job.id, 3, 60) == (), "no event follows the end"
        with pytest.raises(NotFound):
            await manager.events("unknown", 0, 60)


async def test_event_during_the_read_is_not_missed(open_manager: OpenManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "EVENTS_POLL_S", 60)
    async with open_manager(Gate()) as manager:
        job = await manager.submit(request())

        async def cancel_after_the_read(database: Database, job_id: str, after: int) -> tuple[JobEvent, ...]:
            found = await events_after(database, job_id, after)
            if not found:
                await manager.cancel(job_id)
            return found

        await manager.events(job.id, 1, 60)
        monkeypatch.setattr(manager_module, "events_after", cancel_after_the_read)
        [event] = await asyncio.wait_for(manager.events(job.id, 2, 60), 10)
        assert event.type == "cancelled"


async def test_events_of_another_manager_are_polled(
    open_manager: OpenManager, settings: AppSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "EVENTS_POLL_S", 0.05)
    other = await Database.open(database_url)
    gate = Gate()
    async with open_manager(gate) as first, open_manager(gate, lease_owner="there", database=other) as second:
        job = await first.register_sync(request())
        waiting = asyncio.create_task(second.events(job.id, 1, 60))
        await asyncio.sleep(0.1)
        await first.complete(job.id, TRANSCRIPT)
        assert [event.type for event in await asyncio.wait_for(waiting, 10)] == ["completed"]
    await other.close()


async def test_progress_is_stored_once_a_second(open_manager: OpenManager, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        jobs = [await manager.submit(request()) for _ in range(2)]
        await gate.wait_for_runs(2)
        for number in range(1, 50):
            for job in jobs:
                await manager.report_progress(job.id, 1, number / 100)
        for job in jobs:
            events = [event for event in await manager.events(job.id, 0, 0) if event.type == "progress"]
            seconds = (events[-1].at - events[0].at).total_seconds()
            assert len(events) <= 1 + seconds / lifecycle.PROGRESS_S, "a loaded machine may take over a second"
            assert events[0].progress == 0.01
        monkeypatch.setattr(lifecycle, "PROGRESS_S", 0)
        await manager.report_progress(jobs[0].id, 1, 0.9)
        assert (await manager.get(jobs[0].id)).progress == 0.9


async def test_progress_after_the_end_leaves_no_state(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        for _ in range(10):
            job = await wait_for_job(manager, await manager.submit(request()))
            await manager.report_progress(job.id, 1, 0.5)
        assert manager._lifecycle._progress_stored_at == {}


async def test_state_and_webhook_change_in_one_transaction(store: JobStore, runs: RunStore, database: Database) -> None:
    await store.add(job := queued_job(webhook=WEBHOOK))
    await claim_job(runs)
    await runs.save_block(job.id, 1, 0, "{}")
    before = await runs.get(job.id), await events_after(database, job.id, 0)
    [started] = await database.read(select(deliveries))
    assert (started["id"], started["state"], started["due_at"]) == (f"msg_{job.id}_2", "pending", NOW)
    # Take the id of the next delivery, so that it cannot be inserted.
    values = dict(started) | {"id": f"msg_{job.id}_3"}
    await database.write(lambda connection: connection.execute(insert(deliveries).values(values)))
    with pytest.raises(IntegrityError):
        await runs.end(job.id, JobState.SUCCEEDED, NOW, attempt=1, transcript=TRANSCRIPT)
    with pytest.raises(IntegrityError):
        await runs.update_progress(job.id, 1, 0.5, NOW)
    assert (await runs.get(job.id), await events_after(database, job.id, 0)) == before
    assert await runs.load_blocks(job.id) == {0: "{}"}
    assert await store.transcript(job.id) is None


@pytest.mark.parametrize("host", [f"[fe80::1%25{'z' * 300}]", f"xn--{'a' * 50}", "127.0.0.1:9"])
async def test_unusual_webhook_hosts_do_not_block_the_end(open_manager: OpenManager, host: str) -> None:
    async with open_manager(succeed) as manager:
        webhook = Webhook(url=f"http://{host}/done", events=("started", "completed"))
        job = await wait_for_job(manager, await manager.submit(request(webhook)))
        assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
        await wait_for_webhook(manager, job, "failed")
