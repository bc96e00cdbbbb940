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
    OpenManager,
    claim_job,
    files,
    queued_job,
    request,
    succeed,
    upload,
    wait_for_job,
    with_jobs,
)
from tests.jobs.worker import WorkerConfig, run_worker


async def test_jobs_run_in_order_up_to_the_limit(open_manager: OpenManager, settings: AppSettings) -> None:
    gate = Gate()
    async with open_manager(gate, with_jobs(settings, max_running=3)) as manager:
        jobs = [await manager.submit(request()) for _ in range(10)]
        await gate.wait_for_runs(3)
        assert len((await manager.list(JobState.RUNNING, 10, None)).data) == 3
        assert len((await manager.list(JobState.QUEUED, 10, None)).data) == 7
        gate.opened.set()
        for job in jobs:
            assert (await wait_for_job(manager, job)).state is JobState.SUCCEEDED
    assert gate.started == [job.id for job in jobs]


async def test_invalid_audio_is_not_retried(open_manager: OpenManager) -> None:
    async def run(job: Job) -> Transcript:
        raise AudioError("no sound in it", "url", "no_audio")

    async with open_manager(run) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
    assert (job.state, job.attempts) == (JobState.FAILED, 1)
    assert job.error == JobError(
        message="no sound in it", param="url", code="no_audio", type="invalid_request_error", status=400
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "failed_runs", "lost_runs"),
    [
        (RuntimeError("secret"), 2, 0),
        (Unavailable("replica away"), 0, 2),
        (NotDelivered("no replica"), 0, 0),
        (asyncio.CancelledError(), 0, 2),
    ],
)
async def test_temporary_failures_are_retried(
    open_manager: OpenManager, failure: BaseException, failed_runs: int, lost_runs: int
) -> None:
    runs: list[int] = []

    async def run(job: Job) -> Transcript:
        runs.append(job.attempts)
        if job.attempts < 3:
            raise failure
        return TRANSCRIPT

    async with open_manager(run) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
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
async def test_permanent_failure_fails_the_job(
    open_manager: OpenManager, failure: BaseException, runs: int, message: str, status: int
) -> None:
    async def run(job: Job) -> Transcript:
        raise failure

    async with open_manager(run) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
        with pytest.raises(Conflict, match="failed"):
            await manager.result(job.id)
    assert (job.state, job.attempts) == (JobState.FAILED, runs)
    assert job.error is not None
    assert (job.error.message, job.error.status) == (message, status)


async def test_undelivered_runs_are_not_limited(open_manager: OpenManager, settings: AppSettings) -> None:
    async def run(job: Job) -> Transcript:
        if job.attempts < 6:
            raise NotDelivered("no replica")
        return TRANSCRIPT

    async with open_manager(run, with_jobs(settings, max_attempts=1, max_losses=1)) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 6)


async def test_thousands_of_runs(open_manager: OpenManager, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "MAX_RETRY_DELAY_S", 0.01)

    async def run(job: Job) -> Transcript:
        if job.attempts < 5003:
            raise NotDelivered("no replica")
        return TRANSCRIPT

    await store.add(job := queued_job(attempts=5000))
    async with open_manager(run) as manager:
        assert (await wait_for_job(manager, job)).attempts == 5003


async def test_lost_runs_with_progress_are_not_limited(open_manager: OpenManager, settings: AppSettings) -> None:
    async def run(job: Job) -> Transcript:
        assert set(await manager.load_blocks(job.id)) == set(range(1, job.attempts))
        if job.attempts == 6:
            return TRANSCRIPT
        await manager.save_block(job.id, job.attempts, job.attempts, "{}")
        raise Unavailable("replica away")

    manager: JobManager
    async with open_manager(run, with_jobs(settings, max_losses=2)) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
        assert (job.state, job.attempts) == (JobState.SUCCEEDED, 6)
        assert await manager.load_blocks(job.id) == {}


async def test_blocks_of_an_ended_run_are_rejected(open_manager: OpenManager) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request())
        await gate.wait_for_runs(1)
        await manager.save_block(job.id, 1, 0, "{}")
        for attempt in (0, 2):
            with pytest.raises(Conflict, match=f"run {attempt} .* has ended"):
                await manager.save_block(job.id, attempt, 1, "{}")
        await manager.cancel(job.id)
        with pytest.raises(Conflict):
            await manager.save_block(job.id, 1, 1, "{}")
        assert await manager.load_blocks(job.id) == {}


async def test_job_waiting_for_a_retry_does_not_block_others(
    open_manager: OpenManager, settings: AppSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "RETRY_DELAY_S", 60)

    async def run(job: Job) -> Transcript:
        if job.id == failing.id:
            raise RuntimeError
        return TRANSCRIPT

    async with open_manager(run, with_jobs(settings, max_running=1)) as manager:
        failing = await manager.submit(request())
        for _ in range(5):
            assert (await wait_for_job(manager, await manager.submit(request()))).state is JobState.SUCCEEDED
        waiting = await manager.get(failing.id)
        assert (waiting.state, waiting.attempts, waiting.failed_runs) == (JobState.QUEUED, 1, 1)


async def test_closed_manager_requeues_its_jobs(
    open_manager: OpenManager, runs: RunStore, settings: AppSettings
) -> None:
    gate = Gate()
    async with open_manager(gate, with_jobs(settings, max_running=1, max_attempts=1, max_losses=1)) as manager:
        jobs = [await manager.submit(request()) for _ in range(2)]
        await gate.wait_for_runs(1)
    assert gate.cancelled == [jobs[0].id]
    found = await runs.get(jobs[0].id)
    assert found is not None
    assert (found.state, found.attempts, found.failed_runs, found.lost_runs) == (JobState.QUEUED, 1, 0, 0)
    async with open_manager(succeed, lease_owner="another") as manager:
        for job in jobs:
            assert (await wait_for_job(manager, job)).state is JobState.SUCCEEDED


async def test_jobs_of_the_previous_process_are_run_at_once(
    open_manager: OpenManager, store: JobStore, runs: RunStore
) -> None:
    """The loss is counted only if the job is interrupted in this way many times."""
    for attempts in (0, runner_module.MAX_RUNS - 1):
        await store.add(queued_job(id=f"lost{attempts}", lost_runs=4, attempts=attempts))
        await claim_job(runs, "here", datetime.now(UTC))
    async with open_manager(succeed) as manager:
        failed = await manager.get(f"lost{runner_module.MAX_RUNS - 1}")
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert (failed.error.code, failed.error.status) == ("interrupted", 503)
        job = await wait_for_job(manager, await manager.get("lost0"))
        assert (job.state, job.attempts, job.lost_runs) == (JobState.SUCCEEDED, 2, 4)


async def test_only_expired_leases_are_taken_over(
    open_manager: OpenManager, store: JobStore, runs: RunStore, settings: AppSettings
) -> None:
    gate = Gate()
    async with open_manager(gate, with_jobs(settings, lease_s=0.3, max_running=4)) as manager:
        blocked, synchronous = await manager.submit(request()), await manager.register_sync(request())
        await gate.wait_for_runs(1)
        now = datetime.now(UTC)
        # They become due only once the other manager has claimed them, so this manager cannot claim them first.
        for job_id, at in (("lapsed", now - timedelta(hours=1)), ("leased", now)):
            await store.add(queued_job(id=job_id, request=request(priority="high"), created_at=at))
            await claim_job(runs, "another", at)
        await gate.wait_for_runs(2)
        assert gate.started == [blocked.id, "lapsed"]
        await asyncio.sleep(0.7)  # two leases
        for job_id, attempts in ((blocked.id, 1), (synchronous.id, 1), ("lapsed", 2), ("leased", 1)):
            job = await manager.get(job_id)
            assert (job.state, job.attempts) == (JobState.RUNNING, attempts), job_id


async def test_synchronous_job_survives_a_restart(open_manager: OpenManager, blobs: BlobStore, tmp_path: Path) -> None:
    source = await upload(blobs)
    async with open_manager(succeed) as manager:
        job = await manager.register_sync(JobRequest(source=source))
    async with open_manager(succeed) as manager:
        assert len(files(tmp_path / "blobs")) == 1, "its run may not have read it yet"
        await manager.complete(job.id, TRANSCRIPT)
        assert (await manager.get(job.id)).state is JobState.SUCCEEDED


async def test_synchronous_job_without_a_client_times_out(
    open_manager: OpenManager, settings: AppSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SWEEP_S", 0.01)
    monkeypatch.setattr(retention, "SYNC_GRACE_S", 0.05)
    limits = settings.limits.model_copy(update={"request_timeout_s": 0.05})
    async with open_manager(succeed, settings.model_copy(update={"limits": limits})) as manager:
        job = await wait_for_job(manager, await manager.register_sync(request()))
    assert job.state is JobState.FAILED


@pytest.mark.slow
async def test_accepted_jobs_survive_a_killed_process(
    open_manager: OpenManager, database_url: str, tmp_path: Path
) -> None:
    async with run_worker(WorkerConfig(database_url, str(tmp_path), "here", submit=3)) as worker:
        ids = [(await worker.read_line("job"))[0] for _ in range(3)]
        assert await worker.read_line("begun") == [ids[0], "1"]
        await worker.kill()
    async with open_manager(succeed) as manager:
        jobs = [await wait_for_job(manager, await manager.get(job_id)) for job_id in ids]
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.SUCCEEDED, attempts) for attempts in (2, 1, 1)]
