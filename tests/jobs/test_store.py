import asyncio
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

from serve_app.jobs.models import Job, JobError, JobState
from serve_app.jobs.store import ACTIVE, JobStore
from serve_app.options import Webhook
from tests.jobs.helpers import TRANSCRIPT, request

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def job(created_at: datetime = NOW) -> Job:
    webhook = Webhook(url="https://example.com/done", headers={"X-Token": "t"})
    return Job(id=uuid4().hex, state=JobState.QUEUED, mode="async", request=request(webhook), created_at=created_at)


async def test_a_job_comes_back_as_it_was_stored(store: JobStore) -> None:
    stored = job(NOW.astimezone(timezone(timedelta(hours=5))))
    assert await store.add(stored)
    assert await store.get(stored.id) == stored
    assert await store.get("unknown") is None


async def test_the_database_outlives_its_store(tmp_path: Path) -> None:
    url, stored = f"sqlite+aiosqlite:///{tmp_path}/deep/er/jobs.db", job()
    first = await JobStore.open(url)
    await first.add(stored)
    await first.close()
    second = await JobStore.open(url)
    assert await second.get(stored.id) == stored
    await second.close()


async def test_sqlite_writes_ahead(store: JobStore) -> None:
    async with store._engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
        assert (await connection.execute(text("PRAGMA busy_timeout"))).scalar_one() == 30_000


async def test_the_longest_waiting_job_is_claimed_and_only_once(store: JobStore) -> None:
    jobs = [job(NOW + timedelta(microseconds=age)) for age in (2, 0, 1)]
    for each in jobs:
        await store.add(each)
    later = NOW + timedelta(seconds=1)
    claimed = await asyncio.gather(*(store.claim(later) for _ in range(5)))
    assert [each.id for each in claimed if each] == [jobs[1].id, jobs[2].id, jobs[0].id]
    assert all((each.state, each.attempts, each.started_at) == (JobState.RUNNING, 1, later) for each in claimed if each)


async def test_a_requeued_job_waits_until_it_is_due(store: JobStore) -> None:
    await store.add(waiting := job())
    await store.claim(NOW)
    due = NOW + timedelta(seconds=5)
    requeued = await store.requeue(waiting.id, due, 1)
    assert requeued is not None
    assert (requeued.state, requeued.started_at) == (JobState.QUEUED, None)
    assert await store.claim(due - timedelta(microseconds=1)) is None
    again = await store.claim(due)
    assert again is not None
    assert again.attempts == 2


async def test_a_job_that_is_added_again_stays_as_it_is(store: JobStore) -> None:
    first = job()
    await store.add(first)
    await store.claim(NOW)
    again = await store.add(first, 1)
    assert again == await store.get(first.id)
    assert again is not None
    assert again.state is JobState.RUNNING


async def test_the_queue_has_a_limit(store: JobStore) -> None:
    jobs = [job() for _ in range(4)]
    assert await asyncio.gather(*(store.add(each, 2) for each in jobs)) == [*jobs[:2], None, None]
    await store.claim(NOW)
    assert await store.add(job(), 2)


async def test_an_ended_job_never_changes_again(store: JobStore) -> None:
    await store.add(waiting := job())
    await store.claim(NOW)
    ended = await store.end(waiting.id, JobState.SUCCEEDED, NOW, progress=1.0, transcript=TRANSCRIPT)
    assert ended is not None
    assert (ended.state, ended.timings, ended.finished_at) == (JobState.SUCCEEDED, TRANSCRIPT.timings, NOW)
    error = JobError(message="late", type="server_error", status=500)
    assert await store.end(waiting.id, JobState.FAILED, NOW, progress=0.5, error=error, expected=ACTIVE) is None
    assert await store.requeue(waiting.id, NOW, 1) is None
    assert await store.claim(NOW) is None
    assert await store.get(waiting.id) == ended
    assert await store.transcript(waiting.id) == TRANSCRIPT


async def test_a_thousand_jobs_page_by_page(store: JobStore) -> None:
    # Many of the same microsecond: the id decides, and none is lost between two pages.
    jobs = [job(NOW + timedelta(microseconds=number // 7)) for number in range(1000)]
    await asyncio.gather(*map(store.add, jobs))
    await store.claim(NOW)
    expected = sorted(jobs, key=lambda each: (each.created_at, each.id), reverse=True)
    seen: list[str] = []
    after = None
    while page := await store.page(None, 64, after):
        seen += [each.id for each in page]
        after = (page[-1].created_at, page[-1].id)
    assert seen == [each.id for each in expected]
    assert len(await store.page(JobState.QUEUED, 2000, None)) == 999
    assert len(await store.page(JobState.RUNNING, 2000, None)) == 1


async def test_a_claimed_delivery_comes_back_if_nobody_reports(store: JobStore) -> None:
    await store.add(waiting := job())
    await store.end(waiting.id, JobState.CANCELLED, NOW, expected=ACTIVE, progress=0.0, webhook_due_at=NOW)
    again_at = NOW + timedelta(seconds=30)
    assert await store.claim_delivery(NOW - timedelta(seconds=1), again_at) is None
    first = await store.claim_delivery(NOW, again_at)
    assert first is not None
    assert (first.job.id, first.number) == (waiting.id, 1)
    assert await store.claim_delivery(NOW, again_at) is None
    second = await store.claim_delivery(again_at, again_at)
    assert second is not None
    assert second.number == 2
    await store.report_delivery(waiting.id, "delivered")
    await store.report_delivery(waiting.id, "failed")
    found = await store.get(waiting.id)
    assert found is not None
    assert found.webhook == "delivered"
    assert await store.claim_delivery(again_at, again_at) is None


async def test_purging_keeps_what_is_young_or_not_yet_reported(store: JobStore) -> None:
    old, young, unreported, queued = job(), job(), job(), job()
    for each in (old, young, unreported, queued):
        await store.add(each)
    await store.end(old.id, JobState.FAILED, NOW, expected=ACTIVE, progress=0.0)
    await store.end(young.id, JobState.FAILED, NOW + timedelta(seconds=9), expected=ACTIVE, progress=0.0)
    await store.end(unreported.id, JobState.FAILED, NOW, expected=ACTIVE, progress=0.0, webhook_due_at=NOW)
    assert [each.id for each in await store.purge(NOW + timedelta(seconds=5))] == [old.id]
    assert await store.get(old.id) is None
    assert len(await store.page(None, 10, None)) == 3
    await store.report_delivery(unreported.id, "failed")
    assert [each.id for each in await store.purge(NOW + timedelta(seconds=5))] == [unreported.id]


async def test_only_an_ended_job_is_deleted(store: JobStore) -> None:
    await store.add(waiting := job())
    assert await store.delete(waiting.id) is None
    await store.end(waiting.id, JobState.CANCELLED, NOW, expected=ACTIVE, progress=0.0)
    assert await store.delete(waiting.id) is not None
    assert await store.get(waiting.id) is None


async def test_a_read_that_is_cancelled_harms_no_later_one(store: JobStore) -> None:
    await store.add(stored := job())
    for pause in range(30):
        reading = asyncio.create_task(store.get(stored.id))
        for _ in range(pause):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
    assert await store.get(stored.id) == stored
    assert await store.claim(NOW) is not None
