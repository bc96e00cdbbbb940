import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.errors import AudioError, Conflict, NotDelivered, Unavailable
from serve_app.jobs import retention
from serve_app.jobs import runner as runner_module
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.manager import JobManager
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.request import JobRequest
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from tests.jobs.helpers import (
    TRANSCRIPT,
    Gate,
    Managing,
    claimed,
    ended,
    files,
    queued,
    request,
    succeed,
    upload,
    with_jobs,
)
from tests.jobs.worker import Task, working


async def test_jobs_run_first_come_first_served_and_only_so_many(managing: Managing, settings: AppSettings) -> None:
    gate = Gate()
    async with managing(gate, with_jobs(settings, max_running=3)) as manager:
        jobs = [await manager.submit(request()) for _ in range(10)]
        await gate.holds(3)
        assert len((await manager.list(JobState.RUNNING, 10, None)).data) == 3
        assert len((await manager.list(JobState.QUEUED, 10, None)).data) == 7
        gate.opened.set()
        for job in jobs:
            assert (await ended(manager, job)).state is JobState.SUCCEEDED
    assert gate.begun == [job.id for job in jobs]


async def test_bad_input_fails_at_once(managing: Managing) -> None:
    async def run(job: Job) -> Transcript:
        raise AudioError("no sound in it", "url", "no_audio")

    async with managing(run) as manager:
        job = await ended(manager, await manager.submit(request()))
    assert (job.state, job.attempts) == (JobState.FAILED, 1)
    assert job.error == JobError(
        message="no sound in it", param="url", code="no_audio", type="invalid_request_error", status=400
    )


@pytest.mark.parametrize(
    ("failure", "failed_runs", "lost_runs"),
    [
        (RuntimeError("secret"), 2, 0),
        (Unavailable("replica away"), 0, 2),
        (NotDelivered("no replica"), 0, 0),
        (asyncio.CancelledError(), 0, 2),
    ],
)
async def test_a_passing_failure_is_tried_again(
    managing: Managing, failure: BaseException, failed_runs: int, lost_runs: int
) -> None:
    runs: list[int] = []

    async def run(job: Job) -> Transcript:
        runs.append(job.attempts)
        if job.attempts < 3:
            raise failure
        return TRANSCRIPT

    async with managing(run) as manager:
        job = await ended(manager, await manager.submit(request()))
    assert (job.state, job.attempts, job.error) == (JobState.SUCCEEDED, 3, None)
    assert (job.failed_runs, job.lost_runs) == (failed_runs, lost_runs)
    assert runs == [1, 2, 3]


@pytest.mark.parametrize(
    ("failure", "runs", "message", "status"),
    [
        (RuntimeError("secret"), 3, "internal error", 500),
        (Unavailable("replica away"), 5, "replica away", 503),
        (asyncio.CancelledError(), 5, "interrupted: the service stopped while the job was running", 503),
    ],
)
async def test_a_lasting_failure_fails_in_the_end(
    managing: Managing, failure: BaseException, runs: int, message: str, status: int
) -> None:
    async def run(job: Job) -> Transcript:
        raise failure

    async with managing(run) as manager:
        job = await ended(manager, await manager.submit(request()))
        with pytest.raises(Conflict, match="failed"):
            await manager.result(job.id)
    assert (job.state, job.attempts) == (JobState.FAILED, runs)
    assert job.error is not None
    assert (job.error.message, job.error.status) == (message, status)


async def test_what_is_only_away_is_waited_for(managing: Managing, settings: AppSettings) -> None:
    async def run(job: Job) -> Transcript:
        if job.attempts < 6:
            raise NotDelivered("no replica")
        return TRANSCRIPT

    async with managing(run, with_jobs(settings, max_attempts=1, max_losses=1)) as manager:
        job = await ended(manager, await manager.submit(request()))
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 6)


async def test_however_many_runs_there_were_another_can_follow(
    managing: Managing, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "MAX_RETRY_DELAY_S", 0.01)

    async def run(job: Job) -> Transcript:
        if job.attempts < 5003:
            raise NotDelivered("no replica")
        return TRANSCRIPT

    await store.add(job := queued(attempts=5000))
    async with managing(run) as manager:
        assert (await ended(manager, job)).attempts == 5003


async def test_a_job_that_gets_on_is_lost_as_often_as_it_takes(managing: Managing, settings: AppSettings) -> None:
    async def run(job: Job) -> Transcript:
        assert set(await manager.load_blocks(job.id)) == set(range(1, job.attempts))
        if job.attempts == 6:
            return TRANSCRIPT
        await manager.save_block(job.id, job.attempts, job.attempts, "{}")
        raise Unavailable("replica away")

    manager: JobManager
    async with managing(run, with_jobs(settings, max_losses=2)) as manager:
        job = await ended(manager, await manager.submit(request()))
        assert (job.state, job.attempts) == (JobState.SUCCEEDED, 6)
        assert await manager.load_blocks(job.id) == {}


async def test_a_run_that_is_over_keeps_no_blocks(managing: Managing) -> None:
    gate = Gate()
    async with managing(gate) as manager:
        job = await manager.submit(request())
        await gate.holds(1)
        await manager.save_block(job.id, 1, 0, "{}")
        for attempt in (0, 2):
            with pytest.raises(Conflict, match=f"run {attempt} .* has ended"):
                await manager.save_block(job.id, attempt, 1, "{}")
        await manager.cancel(job.id)
        with pytest.raises(Conflict):
            await manager.save_block(job.id, 1, 1, "{}")
        assert await manager.load_blocks(job.id) == {}


async def test_a_job_waiting_for_its_next_run_lets_others_run(
    managing: Managing, settings: AppSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "RETRY_DELAY_S", 60)

    async def run(job: Job) -> Transcript:
        if job.id == poisoned.id:
            raise RuntimeError
        return TRANSCRIPT

    async with managing(run, with_jobs(settings, max_running=1)) as manager:
        poisoned = await manager.submit(request())
        for _ in range(5):
            assert (await ended(manager, await manager.submit(request()))).state is JobState.SUCCEEDED
        waiting = await manager.get(poisoned.id)
        assert (waiting.state, waiting.attempts, waiting.failed_runs) == (JobState.QUEUED, 1, 1)


async def test_a_closed_manager_gives_its_jobs_back(managing: Managing, runs: RunStore, settings: AppSettings) -> None:
    gate = Gate()
    async with managing(gate, with_jobs(settings, max_running=1, max_attempts=1, max_losses=1)) as manager:
        jobs = [await manager.submit(request()) for _ in range(2)]
        await gate.holds(1)
    assert gate.cancelled == [jobs[0].id]
    found = await runs.get(jobs[0].id)
    assert found is not None
    assert (found.state, found.attempts, found.failed_runs, found.lost_runs) == (JobState.QUEUED, 1, 0, 0)
    async with managing(succeed, lease_owner="another") as manager:
        for job in jobs:
            assert (await ended(manager, job)).state is JobState.SUCCEEDED


async def test_what_the_process_before_left_is_taken_up_at_once(
    managing: Managing, store: JobStore, runs: RunStore
) -> None:
    """The loss was the manager's: it is not counted with the job, unless managers die of it again and again."""
    for attempts in (0, runner_module.MAX_RUNS - 1):
        await store.add(queued(id=f"lost{attempts}", lost_runs=4, attempts=attempts))
        await claimed(runs, "here", datetime.now(UTC))
    async with managing(succeed) as manager:
        failed = await manager.get(f"lost{runner_module.MAX_RUNS - 1}")
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert (failed.error.code, failed.error.status) == ("interrupted", 503)
        job = await ended(manager, await manager.get("lost0"))
        assert (job.state, job.attempts, job.lost_runs) == (JobState.SUCCEEDED, 2, 4)


async def test_a_lapsed_lease_is_found_and_the_others_are_left(
    managing: Managing, store: JobStore, runs: RunStore, settings: AppSettings
) -> None:
    gate = Gate()
    async with managing(gate, with_jobs(settings, lease_s=0.3, max_running=4)) as manager:
        held, waited_for = await manager.submit(request()), await manager.register_sync(request())
        await gate.holds(1)
        now = datetime.now(UTC)
        # Due only after both are claimed for others: this manager does not get at them before.
        for job_id, at in (("lapsed", now - timedelta(hours=1)), ("leased", now)):
            await store.add(queued(id=job_id, request=request(priority="high"), created_at=at))
            await claimed(runs, "another", at)
        await gate.holds(2)
        assert gate.begun == [held.id, "lapsed"]
        await asyncio.sleep(0.7)  # two leases
        for job_id, attempts in ((held.id, 1), (waited_for.id, 1), ("lapsed", 2), ("leased", 1)):
            job = await manager.get(job_id)
            assert (job.state, job.attempts) == (JobState.RUNNING, attempts), job_id


async def test_a_synchronous_job_outlives_the_manager(managing: Managing, blobs: BlobStore, tmp_path: Path) -> None:
    source = await upload(blobs)
    async with managing(succeed) as manager:
        job = await manager.register_sync(JobRequest(source=source))
    async with managing(succeed) as manager:
        assert len(files(tmp_path / "blobs")) == 1, "its run may not have read it yet"
        await manager.complete(job.id, TRANSCRIPT)
        assert (await manager.get(job.id)).state is JobState.SUCCEEDED


async def test_a_synchronous_job_whose_client_was_lost_ends(
    managing: Managing, settings: AppSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SWEEP_S", 0.01)
    monkeypatch.setattr(retention, "SYNC_GRACE_S", 0.05)
    limits = settings.limits.model_copy(update={"request_timeout_s": 0.05})
    async with managing(succeed, settings.model_copy(update={"limits": limits})) as manager:
        job = await ended(manager, await manager.register_sync(request()))
    assert job.state is JobState.FAILED


async def test_nothing_accepted_is_lost_when_the_process_is_killed(
    managing: Managing, database_url: str, tmp_path: Path
) -> None:
    async with working(Task(database_url, str(tmp_path), "here", submit=3)) as worker:
        ids = [(await worker.says("job"))[0] for _ in range(3)]
        assert await worker.says("begun") == [ids[0], "1"]
        await worker.kill()
    async with managing(succeed) as manager:
        jobs = [await ended(manager, await manager.get(job_id)) for job_id in ids]
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.SUCCEEDED, attempts) for attempts in (2, 1, 1)]
