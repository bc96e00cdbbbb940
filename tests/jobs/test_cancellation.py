"""Cancellation of jobs in all states and at any moment."""

import asyncio

import pytest

from serve_app.errors import Conflict
from serve_app.jobs.db.jobs import JobStore
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from tests.jobs.helpers import (
    TRANSCRIPT,
    Gate,
    OpenManager,
    request,
    succeed,
    wait_for_job,
    wait_until,
    with_jobs,
)


async def test_cancel_a_queued_job(open_manager: OpenManager, settings: AppSettings) -> None:
    gate = Gate()
    async with open_manager(gate, with_jobs(settings, max_running=1)) as manager:
        first, second, third = [await manager.submit(request()) for _ in range(3)]
        await gate.wait_for_runs(1)
        cancelled = await manager.cancel(second.id)
        assert (cancelled.state, cancelled.attempts) == (JobState.CANCELLED, 0)
        assert cancelled.finished_at is not None
        gate.opened.set()
        assert (await wait_for_job(manager, third)).state is JobState.SUCCEEDED
    assert gate.started == [first.id, third.id]


async def test_cancel_a_running_job(open_manager: OpenManager) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request())
        await gate.wait_for_runs(1)
        cancelled = await manager.cancel(job.id)
        assert gate.cancelled == [job.id]
        assert cancelled.state is JobState.CANCELLED
        assert await manager.cancel(job.id) == cancelled
        with pytest.raises(Conflict, match="cancelled"):
            await manager.result(job.id)


async def test_run_that_completes_during_its_cancellation(open_manager: OpenManager) -> None:
    begun = asyncio.Event()

    async def ignore_cancellation(job: Job) -> Transcript:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return TRANSCRIPT
        raise AssertionError

    async with open_manager(ignore_cancellation) as manager:
        job = await manager.submit(request())
        await begun.wait()
        cancelled = await manager.cancel(job.id)
        assert cancelled.state is JobState.CANCELLED
    async with open_manager(succeed) as manager:
        assert await manager.get(job.id) == cancelled


async def test_cancel_at_any_moment(open_manager: OpenManager, settings: AppSettings) -> None:
    gate = Gate()
    async with open_manager(gate, with_jobs(settings, max_running=4)) as manager:

        async def submit_and_cancel(pause_s: float) -> Job:
            job = await manager.submit(request())
            await asyncio.sleep(pause_s)
            return await manager.cancel(job.id)

        jobs = await asyncio.gather(*(submit_and_cancel(number / 1000) for number in range(40)))
        assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert sorted(gate.cancelled) == sorted(gate.started)


async def test_ended_job_cannot_be_cancelled(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
        assert await manager.cancel(job.id) == job
        assert await manager.result(job.id) == TRANSCRIPT


async def test_cancelled_call_completes_the_cancellation(open_manager: OpenManager, store: JobStore) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request())
        await gate.wait_for_runs(1)
        cancelling = asyncio.create_task(manager.cancel(job.id))
        await asyncio.sleep(0)
        cancelling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelling
        assert (await wait_for_job(manager, job)).state is JobState.CANCELLED

        async def is_stopped() -> bool:
            return gate.cancelled == [job.id]

        await wait_until(is_stopped)
