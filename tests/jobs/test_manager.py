import asyncio
import pickle
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from serve_app.errors import AudioError, Conflict, InvalidRequest, NotFound, Overloaded, ServiceError
from serve_app.jobs import lifecycle
from serve_app.jobs.db.runs import RunStore
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from tests.jobs.helpers import (
    ON_SQLITE,
    TRANSCRIPT,
    Gate,
    OpenManager,
    request,
    succeed,
    wait_for_job,
    with_jobs,
)

ERROR = JobError(message="no sound in it", type="invalid_request_error", status=400)


async def test_submitted_job_is_run(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        accepted = await manager.submit(request())
        assert (accepted.state, accepted.mode, accepted.attempts) == (JobState.QUEUED, "async", 0)
        job = await wait_for_job(manager, accepted)
        assert (job.state, job.attempts, job.progress, job.error) == (JobState.SUCCEEDED, 1, 1.0, None)
        assert job.timings == TRANSCRIPT.timings
        assert job.started_at is not None
        assert job.finished_at is not None
        assert accepted.created_at <= job.started_at <= job.finished_at <= datetime.now(UTC)
        assert await manager.result(job.id) == TRANSCRIPT


async def test_submitted_job_is_stored_before_the_answer(open_manager: OpenManager, runs: RunStore) -> None:
    async with open_manager(Gate()) as manager:
        job = await manager.submit(request())
        assert await runs.get(job.id) is not None


async def test_full_queue_rejects_jobs(open_manager: OpenManager, settings: AppSettings) -> None:
    gate = Gate()
    limits = settings.limits.model_copy(update={"max_queued_jobs": 2})
    async with open_manager(gate, with_jobs(settings.model_copy(update={"limits": limits}), max_running=1)) as manager:
        await manager.submit(request())
        await gate.wait_for_runs(1)
        waiting = [await manager.submit(request()) for _ in range(2)]
        with pytest.raises(Overloaded, match="2 jobs are waiting"):
            await manager.submit(request())
        await manager.register_sync(request())
        await manager.cancel(waiting[0].id)
        await manager.submit(request())


async def test_progress_never_decreases(open_manager: OpenManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "PROGRESS_S", 0)
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request())
        await gate.wait_for_runs(1)
        for fraction, expected in ((0.25, 0.25), (0.5, 0.5), (0.125, 0.5), (1, 1.0)):
            await manager.report_progress(job.id, 1, fraction)
            assert (await manager.get(job.id)).progress == expected
        assert (await manager.list(None, 10, None)).data[0].progress == 1.0
        for wrong in (-0.1, 1.1, float("nan")):
            with pytest.raises(InvalidRequest):
                await manager.report_progress(job.id, 1, wrong)
        await manager.cancel(job.id)
        await manager.report_progress(job.id, 1, 0.1)
        assert (await manager.get(job.id)).progress == 1.0
        await manager.report_progress("unknown", 1, 0.5)


async def test_synchronous_job(open_manager: OpenManager, settings: AppSettings) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.register_sync(request())
        assert (job.state, job.mode, job.attempts) == (JobState.RUNNING, "sync", 1)
        assert (await manager.list(JobState.RUNNING, 10, None)).data == (job,)
        with pytest.raises(Conflict, match="synchronous"):
            await manager.cancel(job.id)
        with pytest.raises(Conflict, match="cancel it first"):
            await manager.delete(job.id)
        await manager.report_progress(job.id, 1, 0.5)
        assert (await manager.get(job.id)).progress == 0.5
        await manager.complete(job.id, TRANSCRIPT)
        assert (await manager.get(job.id)).state is JobState.SUCCEEDED
        assert await manager.result(job.id) == TRANSCRIPT
        for too_late in (manager.cancel_sync(job.id), manager.fail(job.id, ERROR)):
            await too_late
        assert (await manager.cancel(job.id)).state is JobState.SUCCEEDED
    assert gate.started == []


async def test_synchronous_job_fails_or_is_cancelled(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        failed, cancelled = await manager.register_sync(request()), await manager.register_sync(request())
        await manager.fail(failed.id, ERROR)
        await manager.cancel_sync(cancelled.id)
        failed, cancelled = await manager.get(failed.id), await manager.get(cancelled.id)
    assert (failed.state, failed.error) == (JobState.FAILED, ERROR)
    assert cancelled.state is JobState.CANCELLED


async def test_asynchronous_job_cannot_be_completed_by_a_caller(open_manager: OpenManager) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request())
        for call in (
            manager.complete(job.id, TRANSCRIPT),
            manager.fail(job.id, ERROR),
            manager.cancel_sync(job.id),
        ):
            with pytest.raises(Conflict):
                await call


async def test_unknown_jobs(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        for call in (
            manager.get,
            manager.result,
            manager.cancel,
            manager.delete,
            manager.cancel_sync,
        ):
            with pytest.raises(NotFound, match="no job 'unknown'"):
                await call("unknown")


async def test_repeated_call_creates_one_job(open_manager: OpenManager) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        for call in (manager.submit, manager.register_sync):
            job_id = uuid4().hex
            assert {(await call(request(), job_id)).id for _ in range(2)} == {job_id}
        assert len((await manager.list(None, 10, None)).data) == 2


@pytest.mark.slow
async def test_paging(open_manager: OpenManager) -> None:
    async with open_manager(Gate()) as manager:
        jobs = await asyncio.gather(*(manager.submit(request()) for _ in range(250)))
        listed: list[str] = []
        cursor: str | None = None
        while True:
            page = await manager.list(None, 100, cursor)
            listed += [job.id for job in page.data]
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
            await manager.register_sync(request())  # newer jobs do not shift the pages
        newest_first = sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)
        assert listed == [job.id for job in newest_first]
        last_page = await manager.list(JobState.RUNNING, 4, None)
        assert (len(last_page.data), last_page.next_cursor) == (4, None)
        assert (await manager.list("succeeded", 10, None)).data == ()


@ON_SQLITE
@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (("done", 10, None), "state"),
        ((None, 0, None), "limit"),
        ((None, 101, None), "limit"),
        ((None, 10, "x"), "cursor"),
        ((None, 10, ""), "cursor"),
    ],
)
async def test_invalid_list_arguments_are_named(
    open_manager: OpenManager, arguments: tuple[str | None, int, str | None], param: str
) -> None:
    async with open_manager(succeed) as manager:
        with pytest.raises(InvalidRequest) as refused:
            await manager.list(*arguments)
    assert refused.value.param == param


async def test_results_and_errors_are_picklable(open_manager: OpenManager) -> None:
    async def run(job: Job) -> Transcript:
        raise AudioError("no sound in it", "url")

    async with open_manager(run) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
        results = (job, await manager.list(None, 10, None))
        errors = await asyncio.gather(
            manager.result(job.id), manager.get("unknown"), manager.list(None, 0, None), return_exceptions=True
        )
    assert pickle.loads(pickle.dumps(results)) == results
    for error in errors:
        assert isinstance(error, ServiceError)
        unpickled = pickle.loads(pickle.dumps(error))
        assert (type(unpickled), unpickled.message, unpickled.param) == (type(error), error.message, error.param)
