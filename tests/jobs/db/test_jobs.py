import asyncio
from datetime import timedelta, timezone

import pytest
from sqlalchemy import select

from serve_app.jobs.db import tables
from serve_app.jobs.db.deliveries import Outbox
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import ACTIVE
from serve_app.schemas.job import JobError, JobState
from serve_app.schemas.request import (
    DiarizationOptions,
    JobRequest,
    KnownSpeaker,
    Priority,
    TranscriptionOptions,
    UrlSource,
    Webhook,
)
from serve_app.storage.blobs import BlobStore
from tests.jobs.helpers import LATER, LEASE, NOW, TRANSCRIPT, claim_job, queued_job, request, upload

ERROR = JobError(message="late", type="server_error", status=500)


async def test_job_round_trip(store: JobStore, runs: RunStore) -> None:
    webhook = Webhook(url="https://example.com/done", headers={"X-Token": "t"})
    stored = queued_job(NOW.astimezone(timezone(timedelta(hours=5))), webhook, owner="alice", idempotency_key="k")
    added = await store.add(stored)
    assert added is not None
    assert (added.job, added.is_new, added.is_same_request) == (stored, True, True)
    assert await runs.get(stored.id) == stored
    assert await runs.get("unknown") is None


async def test_only_runs_read_the_reference_clips(store: JobStore, runs: RunStore, database: Database) -> None:
    clips = ("A" * 400, "B" * 400)
    known_speakers = tuple(KnownSpeaker(name=clip[0], reference=clip) for clip in clips)
    options = TranscriptionOptions(diarization=DiarizationOptions(known_speakers=known_speakers))
    job = queued_job(request=JobRequest(source=UrlSource(url="https://example.com/a"), options=options))
    added = await store.add(job)
    assert added is not None
    assert added.job == job
    again = await store.add(job)
    assert again is not None
    assert (again.is_new, again.is_same_request) == (False, True)
    for found in (*await store.list("", None, 1, None), await runs.get(job.id)):
        assert found is not None
        assert [speaker.name for speaker in found.request.options.diarization.known_speakers] == ["A", "B"]
        assert clips[0] not in found.model_dump_json()
    for attempt in (1, 2):
        run = await claim_job(runs)
        assert (run.attempts, run.request) == (attempt, job.request)
        await runs.requeue(run, NOW, NOW, failed_runs=0, lost_runs=0)
    await runs.end(job.id, JobState.CANCELLED, NOW, expected=ACTIVE)
    assert [row["clips"] for row in await database.read(select(tables.jobs.c.clips))] == [None]


async def test_longest_waiting_job_is_claimed_once(store: JobStore, runs: RunStore) -> None:
    jobs = [queued_job(NOW + timedelta(microseconds=age)) for age in (2, 0, 1)]
    for job in jobs:
        await store.add(job)
    later = NOW + timedelta(seconds=1)
    found = [job for job in await asyncio.gather(*(runs.claim("a", later, LATER) for _ in range(5))) if job]
    assert [job.id for job in found] == [jobs[1].id, jobs[2].id, jobs[0].id]
    assert all((job.state, job.attempts, job.started_at) == (JobState.RUNNING, 1, later) for job in found)


async def test_active_jobs(store: JobStore, runs: RunStore) -> None:
    ids = ["queued", "running", "sync", "ended"]
    for age, job_id in enumerate(ids):
        state, mode = (JobState.RUNNING, "sync") if job_id == "sync" else (JobState.QUEUED, "async")
        await store.add(queued_job(NOW - timedelta(seconds=age), id=job_id, state=state, mode=mode))
    await runs.end("ended", JobState.CANCELLED, NOW, expected=ACTIVE)
    assert (await claim_job(runs)).id == "running"
    assert await store.list_active("") == ("sync", "running", "queued")


async def test_requeued_job_is_claimed_when_due(store: JobStore, runs: RunStore) -> None:
    await store.add(queued_job())
    run = await claim_job(runs)
    due = NOW + timedelta(seconds=5)
    requeued = await runs.requeue(run, NOW, due, failed_runs=1, lost_runs=2)
    assert requeued is not None
    assert (requeued.state, requeued.started_at, requeued.failed_runs, requeued.lost_runs) == (
        JobState.QUEUED,
        None,
        1,
        2,
    )
    early = due - timedelta(microseconds=1)
    assert await runs.claim("here", early, LATER) is None
    assert (await claim_job(runs, now=due)).attempts == 2


async def test_added_duplicate_changes_nothing(store: JobStore, runs: RunStore) -> None:
    first = queued_job(idempotency_key="k")
    await store.add(first)
    run = await claim_job(runs)
    for again in (first, queued_job(idempotency_key="k")):
        added = await store.add(again, 1)
        assert added is not None
        assert (added.job, added.is_new, added.is_same_request) == (run, False, True)


async def test_different_request_with_the_same_key_or_id(store: JobStore) -> None:
    first = queued_job(owner="alice", idempotency_key="k")
    await store.add(first)
    other = request(url="https://example.com/b.mp3")
    for again in (
        queued_job(owner="alice", idempotency_key="k", request=other),
        queued_job(id=first.id, request=other, owner="alice"),
        queued_job(id=first.id, owner="bob"),
    ):
        added = await store.add(again)
        assert added is not None
        assert (added.job, added.is_new, added.is_same_request) == (first, False, False)


async def test_same_upload_content_is_the_same_request(store: JobStore, blobs: BlobStore) -> None:
    first, again = [queued_job(id="one", request=JobRequest(source=await upload(blobs))) for _ in range(2)]
    await store.add(first)
    added = await store.add(again)
    assert added is not None
    assert (added.job, added.is_new, added.is_same_request) == (first, False, True)


async def test_queue_limit(store: JobStore, runs: RunStore) -> None:
    added = await asyncio.gather(*(store.add(queued_job(), 2) for _ in range(4)))
    assert [job is not None for job in added] == [True, True, False, False]
    await claim_job(runs)
    assert await store.add(queued_job(), 2)


async def test_ended_job_never_changes(store: JobStore, runs: RunStore) -> None:
    await store.add(queued_job())
    run = await claim_job(runs)
    ended = await runs.end(run.id, JobState.SUCCEEDED, NOW, attempt=1, transcript=TRANSCRIPT)
    assert ended is not None
    assert (ended.state, ended.progress, ended.finished_at) == (JobState.SUCCEEDED, 1.0, NOW)
    assert ended.timings == TRANSCRIPT.timings
    assert await runs.end(run.id, JobState.FAILED, NOW, error=ERROR, expected=ACTIVE) is None
    assert await runs.requeue(run, NOW, NOW, 0, 0) is None
    assert await runs.update_progress(run.id, 1, 1.0, NOW) is None
    assert not await runs.save_block(run.id, 1, 0, "{}")
    assert await runs.claim("here", LATER, LATER) is None
    assert await runs.get(run.id) == ended
    assert await store.transcript(run.id) == TRANSCRIPT


async def test_reports_of_an_earlier_run_are_ignored(store: JobStore, runs: RunStore) -> None:
    await store.add(queued_job())
    old = await claim_job(runs)
    await runs.requeue(old, NOW, NOW, 0, 1)
    for state in (JobState.QUEUED, JobState.RUNNING):
        if state is JobState.RUNNING:
            await claim_job(runs, "there")
        before = await runs.get(old.id)
        assert await runs.end(old.id, JobState.SUCCEEDED, NOW, attempt=1, transcript=TRANSCRIPT) is None
        assert await runs.end(old.id, JobState.FAILED, NOW, attempt=1, error=ERROR) is None
        assert await runs.requeue(old, NOW, NOW, 0, 0) is None
        assert await runs.update_progress(old.id, 1, 0.9, NOW) is None
        assert not await runs.save_block(old.id, 1, 0, "{}")
        assert await runs.renew_leases({old.id: 1}, "here", LATER) == set()
        assert await runs.get(old.id) == before
        assert before is not None
        assert before.state is state
    assert await runs.load_blocks(old.id) == {}
    assert await runs.renew_leases({old.id: 1}, "there", LATER) == set()
    assert await runs.renew_leases({old.id: 2}, "there", LATER) == {old.id}


async def test_orphaned_leases(store: JobStore, runs: RunStore) -> None:
    for _ in range(2):
        await store.add(queued_job())
    mine, others = await claim_job(runs, "mine"), await claim_job(runs, "other")
    await store.add(queued_job(mode="sync", state=JobState.RUNNING, attempts=1, started_at=NOW))
    end = NOW + LEASE
    assert await runs.orphaned("mine", end) == (mine,)
    assert await runs.orphaned("new", end) == ()
    lapsed = await runs.orphaned("new", end + timedelta(microseconds=1))
    assert {job.id for job in lapsed} == {mine.id, others.id}
    assert await runs.renew_leases({others.id: 1}, "other", end + LEASE) == {others.id}
    assert await runs.orphaned("new", end + timedelta(microseconds=1)) == (mine,)


async def test_blocks_are_kept_until_the_job_ends(store: JobStore, runs: RunStore) -> None:
    await store.add(queued_job())
    first = await claim_job(runs)
    assert await runs.save_block(first.id, 1, 0, "a")
    await runs.requeue(first, NOW, NOW, failed_runs=1, lost_runs=3)
    second = await claim_job(runs)
    assert (second.failed_runs, second.lost_runs) == (1, 3)
    assert await runs.save_block(first.id, 2, 1, "b")
    assert await runs.save_block(first.id, 2, 1, "c")
    assert await runs.load_blocks(first.id) == {0: "a", 1: "c"}
    found = await runs.get(first.id)
    assert found is not None
    assert (found.failed_runs, found.lost_runs) == (1, 0), "a saved block resets the count of lost runs"
    await runs.end(first.id, JobState.SUCCEEDED, NOW, attempt=2, transcript=TRANSCRIPT)
    assert await runs.load_blocks(first.id) == {}


async def test_owners_share_the_queue_fairly(store: JobStore, runs: RunStore) -> None:
    for age in range(50):
        await store.add(queued_job(NOW + timedelta(microseconds=age), owner="many"))
    running = [await claim_job(runs, now=LATER) for _ in range(3)]
    await store.add(one := queued_job(NOW + timedelta(seconds=1), owner="one"))
    assert {run.owner for run in running} == {"many"}
    assert (await claim_job(runs, now=LATER)).id == one.id
    assert (await claim_job(runs, now=LATER)).owner == "many"


async def test_priority_comes_before_fairness(store: JobStore, runs: RunStore) -> None:
    async def add_job(owner: str, priority: Priority) -> str:
        job = queued_job(owner=owner, request=request(priority=priority))
        await store.add(job)
        return job.id

    low = await add_job("a", "low")
    normal = await add_job("b", "normal")
    high = [await add_job("a", "high") for _ in range(2)]
    order = [(await claim_job(runs)).id for _ in range(4)]
    assert set(order[:2]) == set(high)
    assert order[2:] == [normal, low]


async def test_paging(store: JobStore, runs: RunStore) -> None:
    # Many jobs have the same time, so pages are also ordered by id.
    jobs = [queued_job(NOW + timedelta(microseconds=number // 7)) for number in range(300)]
    await asyncio.gather(*map(store.add, jobs))
    await claim_job(runs)
    expected = sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)
    seen: list[str] = []
    after = None
    while page := await store.list("", None, 64, after):
        seen += [job.id for job in page]
        after = (page[-1].created_at, page[-1].id)
    assert seen == [job.id for job in expected]
    assert len(await store.list("", JobState.QUEUED, 2000, None)) == 299
    assert len(await store.list("", JobState.RUNNING, 2000, None)) == 1


async def test_purge(store: JobStore, runs: RunStore, database: Database) -> None:
    webhook = Webhook(url="https://example.com/done")
    old, young, unreported, waiting = queued_job(), queued_job(), queued_job(webhook=webhook), queued_job()
    for job in (old, young, unreported, waiting):
        await store.add(job)
    for job, age in ((old, 0), (young, 9), (unreported, 0)):
        await runs.end(job.id, JobState.FAILED, NOW + timedelta(seconds=age), expected=ACTIVE)
    assert [job.id for job in await store.purge(NOW + timedelta(seconds=5))] == [old.id]
    assert await runs.get(old.id) is None
    assert len(await store.list("", None, 10, None)) == 3
    assert [job.id for job in await store.list("", None, 10, None, "pending")] == [unreported.id]
    outbox = Outbox(database)
    delivery = await outbox.claim(NOW, LATER, ())
    assert delivery is not None
    await outbox.report(delivery, "failed", None)
    assert [job.id for job in await store.purge(NOW + timedelta(seconds=5))] == [unreported.id]
    assert await outbox.list_deliveries(unreported.id) == ()


async def test_only_ended_jobs_are_deleted(store: JobStore, runs: RunStore) -> None:
    await store.add(waiting := queued_job())
    assert await store.delete(waiting.id, "") is None
    await runs.end(waiting.id, JobState.CANCELLED, NOW, expected=ACTIVE)
    assert await store.delete(waiting.id, "") is not None
    assert await runs.get(waiting.id) is None


async def test_cancelled_read_does_not_affect_later_reads(store: JobStore, runs: RunStore) -> None:
    await store.add(stored := queued_job())
    for pause in range(30):
        reading = asyncio.create_task(runs.get(stored.id))
        for _ in range(pause):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
    assert await runs.get(stored.id) == stored
    assert await runs.claim("here", NOW, LATER) is not None


@pytest.mark.parametrize("job_id", ["\0", "a\0b", "ä" * 200, "", "%", "' OR 1=1 --", "x" * 100_000])
async def test_invalid_ids_are_unknown(store: JobStore, runs: RunStore, job_id: str) -> None:
    assert await runs.get(job_id) is None
    assert await store.delete(job_id, "") is None
    assert await store.transcript(job_id) is None
    assert await runs.load_blocks(job_id) == {}
    assert await runs.end(job_id, JobState.CANCELLED, NOW, expected=ACTIVE) is None
