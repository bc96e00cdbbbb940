"""Several managers on one database, some of which die, or are late."""

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
from tests.jobs.helpers import TRANSCRIPT, Gate, Managing, claimed, ended, queued, request, succeed, with_jobs
from tests.jobs.worker import Task, working

OTHER = TRANSCRIPT.model_copy(update={"text": "by the one who took over"})
LEASE_S = 2.0


@pytest.fixture
async def other_database(database: Database, database_url: str) -> AsyncIterator[Database]:
    """Another connection to the same, as of another process."""
    other = await Database.open(database_url)
    yield other
    await other.close()


async def types(manager: JobManager, job: Job) -> list[str]:
    return [event.type for event in await manager.events(job.id, 0, 0)]


@pytest.mark.slow
async def test_every_job_is_run_once(managing: Managing, settings: AppSettings, other_database: Database) -> None:
    runs: list[tuple[str, str]] = []
    shared = asyncio.Barrier(2)  # the first runs of each wait for the other's: neither does all the work alone

    def running(lease_owner: str) -> RunJob:
        async def run(job: Job) -> Transcript:
            runs.append((job.id, lease_owner))
            if [by for _, by in runs].count(lease_owner) == 1:
                await shared.wait()
            await asyncio.sleep(0.01)
            return TRANSCRIPT.model_copy(update={"text": f"{job.id} by {lease_owner}"})

        return run

    many = with_jobs(settings, max_running=8)
    async with (
        managing(running("here"), many, "here") as here,
        managing(running("there"), many, "there", other_database) as there,
    ):
        submitting = [(here, there)[number % 2].submit(request()) for number in range(120)]
        jobs = [await ended(here, job) for job in await asyncio.gather(*submitting)]
        for job in jobs:
            assert (job.state, job.attempts, job.lost_runs) == (JobState.SUCCEEDED, 1, 0)
            assert await types(there, job) == ["queued", "started", "completed"]
        lease_owners = dict(runs)
        for job in jobs[::10]:
            assert (await there.result(job.id)).text == f"{job.id} by {lease_owners[job.id]}"
    assert Counter(job_id for job_id, _ in runs) == Counter(job.id for job in jobs)
    assert set(lease_owners.values()) == {"here", "there"}


@pytest.mark.slow
async def test_a_process_that_is_killed_has_its_jobs_taken_over(
    managing: Managing, settings: AppSettings, database_url: str, tmp_path: Path
) -> None:
    task = Task(database_url, str(tmp_path), "doomed", submit=2, max_running=2, lease_s=LEASE_S)
    async with working(task) as worker:
        ids = [(await worker.says("begun"))[0] for _ in range(2)]
        async with managing(succeed, with_jobs(settings, lease_s=LEASE_S)) as manager:
            await asyncio.sleep(1.5 * LEASE_S)
            for job_id in ids:
                job = await manager.get(job_id)
                assert (job.state, job.attempts) == (JobState.RUNNING, 1), "it lives, and renews its leases"
            await worker.kill()
            clock = time.monotonic()
            for job_id in ids:
                job = await ended(manager, await manager.get(job_id))
                assert (job.state, job.attempts, job.lost_runs) == (JobState.SUCCEEDED, 2, 0)
                assert await types(manager, job) == ["queued", "started", "queued", "started", "completed"]
            print(f"run again {time.monotonic() - clock:.2f} s after the kill, with leases of {LEASE_S} s")


@pytest.mark.slow
async def test_a_process_that_was_away_comes_too_late(
    managing: Managing, settings: AppSettings, database_url: str, tmp_path: Path
) -> None:
    task = Task(database_url, str(tmp_path), "late", submit=2, max_running=2, lease_s=LEASE_S, run_s=(LEASE_S, 3600.0))
    async with working(task) as worker:
        ids = [(await worker.says("begun"))[0] for _ in range(2)]
        worker.freeze()
        gate = Gate(OTHER)
        async with managing(gate, with_jobs(settings, lease_s=LEASE_S)) as manager:
            await gate.holds(2)
            worker.thaw()
            assert await worker.says("done") == [ids[0], "1"]
            assert await worker.says("stopped") == [ids[1], "1"]
            await asyncio.sleep(0.5)
            for job_id in ids:
                job = await manager.get(job_id)
                assert (job.state, job.attempts, job.lost_runs) == (JobState.RUNNING, 2, 0)
            gate.opened.set()
            for job_id in ids:
                job = await ended(manager, await manager.get(job_id))
                assert (job.state, job.attempts, await manager.result(job_id)) == (JobState.SUCCEEDED, 2, OTHER)
                assert await types(manager, job) == ["queued", "started", "queued", "started", "completed"]


async def spoil(database: Database, which: str, column: str = "request") -> None:
    """As another version of the service would have stored it."""
    await database.write(
        lambda connection: connection.execute(text(f"UPDATE jobs SET {column} = '{{}}' WHERE {which}"))
    )


async def test_a_job_that_nobody_can_read_stops_nobody(
    managing: Managing, store: JobStore, runs: RunStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for job_id in ("running", "waiting", "ended", "fine"):
        await store.add(queued(id=job_id))
        if job_id == "running":
            await claimed(runs, "here", datetime.now(UTC))
    await runs.end("ended", JobState.CANCELLED, datetime.now(UTC), expected=[JobState.QUEUED])
    await spoil(database, "id != 'fine'")
    async with managing(succeed) as manager:
        assert {job.id for job in (await manager.list(None, 10, None)).data} == {"running", "waiting", "ended", "fine"}
        for job_id in ("running", "waiting"):
            job = await ended(manager, await manager.get(job_id))
            assert job.state is JobState.FAILED
            assert job.error is not None
            assert (job.error.code, job.error.param, job.error.status) == ("unreadable", "request", 400)
            assert f"the request of job {job_id} was stored by another version" in caplog.text
        fine = await ended(manager, await manager.get("fine"))
        assert (fine.state, fine.attempts) == (JobState.SUCCEEDED, 1)
        await spoil(database, "id = 'waiting'", "error")
        unreadable = (await manager.get("waiting")).error
        assert unreadable is not None
        assert "cannot be read" in unreadable.message
        for job_id in ("running", "waiting", "ended"):
            await manager.delete(job_id)
