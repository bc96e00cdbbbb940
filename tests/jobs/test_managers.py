"""Several managers on one database, in processes that are killed or suspended."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.manager import JobManager
from serve_app.jobs.runner import RunJob
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from tests.jobs.helpers import (
    TRANSCRIPT,
    Gate,
    OpenManager,
    claim_job,
    queued_job,
    request,
    succeed,
    wait_for_job,
    with_jobs,
)
from tests.jobs.worker import WorkerConfig, run_worker

OTHER = TRANSCRIPT.model_copy(update={"text": "by the other process"})
LEASE_S = 2.0


@pytest.fixture
async def other_database(database: Database, database_url: str) -> AsyncIterator[Database]:
    """Open a second connection to the database, as another process has."""
    other = await Database.open(database_url)
    yield other
    await other.close()


async def event_types(manager: JobManager, job: Job) -> list[str]:
    return [event.type for event in await manager.events(job.id, 0, 0)]


@pytest.mark.slow
async def test_each_job_is_run_once(open_manager: OpenManager, settings: AppSettings, other_database: Database) -> None:
    runs: list[tuple[str, str]] = []
    both_started = asyncio.Barrier(2)  # the first run of each manager waits for the other's, so both run jobs

    def runs_recorded_by(lease_owner: str) -> RunJob:
        async def run(job: Job) -> Transcript:
            runs.append((job.id, lease_owner))
            if [by for _, by in runs].count(lease_owner) == 1:
                await both_started.wait()
            await asyncio.sleep(0.01)
            return TRANSCRIPT.model_copy(update={"text": f"{job.id} by {lease_owner}"})

        return run

    settings = with_jobs(settings, max_running=8)
    async with (
        open_manager(runs_recorded_by("here"), settings, "here") as here,
        open_manager(runs_recorded_by("there"), settings, "there", other_database) as there,
    ):
        submitting = [(here, there)[number % 2].submit(request()) for number in range(120)]
        jobs = [await wait_for_job(here, job) for job in await asyncio.gather(*submitting)]
        for job in jobs:
            assert (job.state, job.attempts, job.lost_runs) == (JobState.SUCCEEDED, 1, 0)
            assert await event_types(there, job) == ["queued", "started", "completed"]
        lease_owners = dict(runs)
        for job in jobs[::10]:
            assert (await there.result(job.id)).text == f"{job.id} by {lease_owners[job.id]}"
    assert Counter(job_id for job_id, _ in runs) == Counter(job.id for job in jobs)
    assert set(lease_owners.values()) == {"here", "there"}


@pytest.mark.slow
async def test_jobs_of_a_killed_process_are_run_again(
    open_manager: OpenManager, settings: AppSettings, database_url: str, tmp_path: Path
) -> None:
    config = WorkerConfig(database_url, str(tmp_path), "doomed", submit=2, max_running=2, lease_s=LEASE_S)
    async with run_worker(config) as worker:
        ids = [(await worker.read_line("begun"))[0] for _ in range(2)]
        async with open_manager(succeed, with_jobs(settings, lease_s=LEASE_S)) as manager:
            await asyncio.sleep(1.5 * LEASE_S)
            for job_id in ids:
                job = await manager.get(job_id)
                assert (job.state, job.attempts) == (JobState.RUNNING, 1), "the process runs, and renews its leases"
            await worker.kill()
            clock = time.monotonic()
            for job_id in ids:
                job = await wait_for_job(manager, await manager.get(job_id))
                assert (job.state, job.attempts, job.lost_runs) == (JobState.SUCCEEDED, 2, 0)
                assert await event_types(manager, job) == ["queued", "started", "queued", "started", "completed"]
            print(f"run again {time.monotonic() - clock:.2f} s after the kill, with leases of {LEASE_S} s")


@pytest.mark.slow
async def test_late_results_of_a_suspended_process_are_ignored(
    open_manager: OpenManager, settings: AppSettings, database_url: str, tmp_path: Path
) -> None:
    config = WorkerConfig(
        database_url, str(tmp_path), "late", submit=2, max_running=2, lease_s=LEASE_S, run_s=(LEASE_S, 3600.0)
    )
    async with run_worker(config) as worker:
        ids = [(await worker.read_line("begun"))[0] for _ in range(2)]
        worker.freeze()
        gate = Gate(OTHER)
        async with open_manager(gate, with_jobs(settings, lease_s=LEASE_S)) as manager:
            await gate.wait_for_runs(2)
            worker.thaw()
            assert await worker.read_line("done") == [ids[0], "1"]
            assert await worker.read_line("stopped") == [ids[1], "1"]
            await asyncio.sleep(0.5)
            for job_id in ids:
                job = await manager.get(job_id)
                assert (job.state, job.attempts, job.lost_runs) == (JobState.RUNNING, 2, 0)
            gate.opened.set()
            for job_id in ids:
                job = await wait_for_job(manager, await manager.get(job_id))
                assert (job.state, job.attempts, await manager.result(job_id)) == (JobState.SUCCEEDED, 2, OTHER)
                assert await event_types(manager, job) == ["queued", "started", "queued", "started", "completed"]


async def overwrite_column(database: Database, condition: str, column: str = "request") -> None:
    """Store a value that this version of the service cannot read."""
    await database.write(
        lambda connection: connection.execute(text(f"UPDATE jobs SET {column} = '{{}}' WHERE {condition}"))
    )


async def test_unreadable_jobs_fail_alone(
    open_manager: OpenManager, store: JobStore, runs: RunStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for job_id in ("running", "waiting", "ended", "fine"):
        await store.add(queued_job(id=job_id))
        if job_id == "running":
            await claim_job(runs, "here", datetime.now(UTC))
    await runs.end("ended", JobState.CANCELLED, datetime.now(UTC), expected=[JobState.QUEUED])
    await overwrite_column(database, "id != 'fine'")
    async with open_manager(succeed) as manager:
        assert {job.id for job in (await manager.list(None, 10, None)).data} == {"running", "waiting", "ended", "fine"}
        for job_id in ("running", "waiting"):
            job = await wait_for_job(manager, await manager.get(job_id))
            assert job.state is JobState.FAILED
            assert job.error is not None
            assert (job.error.code, job.error.param, job.error.status) == ("unreadable", "request", 400)
            logged = [record for record in caplog.records if "was stored by another version" in record.message]
            assert job_id in {getattr(record, "job_id", None) for record in logged}
        fine = await wait_for_job(manager, await manager.get("fine"))
        assert (fine.state, fine.attempts) == (JobState.SUCCEEDED, 1)
        await overwrite_column(database, "id = 'waiting'", "error")
        unreadable = (await manager.get("waiting")).error
        assert unreadable is not None
        assert "cannot be read" in unreadable.message
        for job_id in ("running", "waiting", "ended"):
            await manager.delete(job_id)
