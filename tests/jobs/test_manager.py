import asyncio
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from serve_app.errors import AudioError, Conflict, InvalidRequest, NotFound, Overloaded, ServiceError
from serve_app.jobs import lifecycle
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.request import BlobSource, JobRequest, Webhook
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from tests.jobs.helpers import (
    ON_SQLITE,
    TRANSCRIPT,
    Gate,
    Managing,
    Receiver,
    ended,
    eventually,
    files,
    request,
    succeed,
    upload,
    with_jobs,
)

ERROR = JobError(message="no sound in it", type="invalid_request_error", status=400)


async def no_uploads(tmp_path: Path) -> None:
    async def gone() -> bool:
        return files(tmp_path / "blobs") == []

    await eventually(gone)


async def test_a_job_is_run_and_its_transcript_kept(managing: Managing) -> None:
    async with managing(succeed) as manager:
        accepted = await manager.submit(request())
        assert (accepted.state, accepted.mode, accepted.attempts) == (JobState.QUEUED, "async", 0)
        job = await ended(manager, accepted)
        assert (job.state, job.attempts, job.progress, job.error) == (JobState.SUCCEEDED, 1, 1.0, None)
        assert job.timings == TRANSCRIPT.timings
        assert job.started_at is not None
        assert job.finished_at is not None
        assert accepted.created_at <= job.started_at <= job.finished_at <= datetime.now(UTC)
        assert await manager.result(job.id) == TRANSCRIPT


async def test_a_job_is_in_the_database_before_it_is_answered(managing: Managing, runs: RunStore) -> None:
    async with managing(Gate()) as manager:
        job = await manager.submit(request())
        assert await runs.get(job.id) is not None


async def test_a_full_queue_refuses(managing: Managing, settings: AppSettings) -> None:
    gate = Gate()
    limits = settings.limits.model_copy(update={"max_queued_jobs": 2})
    async with managing(gate, with_jobs(settings.model_copy(update={"limits": limits}), max_running=1)) as manager:
        await manager.submit(request())
        await gate.holds(1)
        waiting = [await manager.submit(request()) for _ in range(2)]
        with pytest.raises(Overloaded, match="2 jobs are waiting"):
            await manager.submit(request())
        await manager.register_sync(request())
        await manager.cancel(waiting[0].id)
        await manager.submit(request())


async def test_progress_never_goes_back(managing: Managing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "PROGRESS_S", 0)
    gate = Gate()
    async with managing(gate) as manager:
        job = await manager.submit(request())
        await gate.holds(1)
        for fraction, shown in ((0.25, 0.25), (0.5, 0.5), (0.125, 0.5), (1, 1.0)):
            await manager.report_progress(job.id, 1, fraction)
            assert (await manager.get(job.id)).progress == shown
        assert (await manager.list(None, 10, None)).data[0].progress == 1.0
        for wrong in (-0.1, 1.1, float("nan")):
            with pytest.raises(InvalidRequest):
                await manager.report_progress(job.id, 1, wrong)
        await manager.cancel(job.id)
        await manager.report_progress(job.id, 1, 0.1)
        assert (await manager.get(job.id)).progress == 1.0
        await manager.report_progress("unknown", 1, 0.5)


async def test_a_queued_job_is_cancelled(managing: Managing, settings: AppSettings) -> None:
    gate = Gate()
    async with managing(gate, with_jobs(settings, max_running=1)) as manager:
        first, second, third = [await manager.submit(request()) for _ in range(3)]
        await gate.holds(1)
        cancelled = await manager.cancel(second.id)
        assert (cancelled.state, cancelled.attempts) == (JobState.CANCELLED, 0)
        assert cancelled.finished_at is not None
        gate.opened.set()
        assert (await ended(manager, third)).state is JobState.SUCCEEDED
    assert gate.begun == [first.id, third.id]


async def test_a_running_job_is_cancelled_and_its_work_has_stopped(managing: Managing) -> None:
    gate = Gate()
    async with managing(gate) as manager:
        job = await manager.submit(request())
        await gate.holds(1)
        cancelled = await manager.cancel(job.id)
        assert gate.cancelled == [job.id]
        assert cancelled.state is JobState.CANCELLED
        assert await manager.cancel(job.id) == cancelled
        with pytest.raises(Conflict, match="cancelled"):
            await manager.result(job.id)


async def test_a_run_that_ends_while_it_is_cancelled_changes_nothing(managing: Managing) -> None:
    begun = asyncio.Event()

    async def stubborn(job: Job) -> Transcript:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return TRANSCRIPT
        raise AssertionError

    async with managing(stubborn) as manager:
        job = await manager.submit(request())
        await begun.wait()
        cancelled = await manager.cancel(job.id)
        assert cancelled.state is JobState.CANCELLED
    async with managing(succeed) as manager:
        assert await manager.get(job.id) == cancelled


async def test_jobs_cancelled_at_any_moment_stay_cancelled(managing: Managing, settings: AppSettings) -> None:
    gate = Gate()
    async with managing(gate, with_jobs(settings, max_running=4)) as manager:

        async def submit_and_cancel(pause_s: float) -> Job:
            job = await manager.submit(request())
            await asyncio.sleep(pause_s)
            return await manager.cancel(job.id)

        jobs = await asyncio.gather(*(submit_and_cancel(number / 1000) for number in range(40)))
        assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert sorted(gate.cancelled) == sorted(gate.begun)


async def test_an_ended_job_is_not_cancelled(managing: Managing) -> None:
    async with managing(succeed) as manager:
        job = await ended(manager, await manager.submit(request()))
        assert await manager.cancel(job.id) == job
        assert await manager.result(job.id) == TRANSCRIPT


async def test_a_synchronous_job_is_listed_and_finished(managing: Managing, settings: AppSettings) -> None:
    gate = Gate()
    async with managing(gate) as manager:
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
    assert gate.begun == []


async def test_a_synchronous_job_fails_or_is_abandoned(managing: Managing) -> None:
    async with managing(succeed) as manager:
        failed, abandoned = await manager.register_sync(request()), await manager.register_sync(request())
        await manager.fail(failed.id, ERROR)
        await manager.cancel_sync(abandoned.id)
        failed, abandoned = await manager.get(failed.id), await manager.get(abandoned.id)
    assert (failed.state, failed.error) == (JobState.FAILED, ERROR)
    assert abandoned.state is JobState.CANCELLED


async def test_an_asynchronous_job_is_not_ended_from_outside(managing: Managing) -> None:
    gate = Gate()
    async with managing(gate) as manager:
        job = await manager.submit(request())
        for meddling in (
            manager.complete(job.id, TRANSCRIPT),
            manager.fail(job.id, ERROR),
            manager.cancel_sync(job.id),
        ):
            with pytest.raises(Conflict):
                await meddling


async def test_unknown_jobs(managing: Managing) -> None:
    async with managing(succeed) as manager:
        for call in (
            manager.get,
            manager.result,
            manager.cancel,
            manager.delete,
            manager.cancel_sync,
        ):
            with pytest.raises(NotFound, match="no job 'unknown'"):
                await call("unknown")


async def test_a_call_that_is_made_again_makes_no_second_job(managing: Managing) -> None:
    gate = Gate()
    async with managing(gate) as manager:
        for call in (manager.submit, manager.register_sync):
            job_id = uuid4().hex
            assert {(await call(request(), job_id)).id for _ in range(2)} == {job_id}
        assert len((await manager.list(None, 10, None)).data) == 2


async def test_an_upload_goes_when_its_job_ends(managing: Managing, blobs: BlobStore, tmp_path: Path) -> None:
    gate = Gate()

    async def run(job: Job) -> Transcript:
        if job.attempts == 1:
            raise RuntimeError
        assert isinstance(job.request.source, BlobSource)
        await blobs.copy(job.request.source.key, tmp_path / "copy")
        return await gate(job)

    async with managing(run) as manager:
        jobs = [await manager.submit(JobRequest(source=await upload(blobs))) for _ in range(2)]
        await gate.holds(2)
        assert len(files(tmp_path / "blobs")) == 2
        await manager.cancel(jobs[0].id)
        assert len(files(tmp_path / "blobs")) == 1
        gate.opened.set()
        assert (await ended(manager, jobs[1])).state is JobState.SUCCEEDED
        await no_uploads(tmp_path)
        sync = await manager.register_sync(JobRequest(source=await upload(blobs)))
        await manager.complete(sync.id, TRANSCRIPT)
        await no_uploads(tmp_path)


async def killed_before_cleaning_up(store: JobStore, blobs: BlobStore, at: datetime) -> None:
    """The job `old`, as a process leaves it that was killed between its end and its upload's."""
    source = await upload(blobs)
    old = Job(
        id="old",
        state=JobState.FAILED,
        mode="async",
        request=JobRequest(source=source),
        created_at=at,
        finished_at=at,
    )
    await store.add(old)


async def test_finished_jobs_are_forgotten_after_a_while(
    managing: Managing, settings: AppSettings, blobs: BlobStore, store: JobStore, tmp_path: Path
) -> None:
    await killed_before_cleaning_up(store, blobs, datetime.now(UTC) - timedelta(hours=25))
    async with managing(succeed) as manager:
        await no_uploads(tmp_path)
        with pytest.raises(NotFound):
            await manager.get("old")
        young = await ended(manager, await manager.submit(request()))
        assert await manager.get(young.id) == young
    async with managing(succeed, with_jobs(settings, retention_s=0.01)) as manager:

        async def gone() -> bool:
            return (await manager.list(None, 10, None)).data == ()

        await eventually(gone)


async def test_a_job_whose_webhook_is_to_be_sent_still_is_not_forgotten(
    managing: Managing, settings: AppSettings, receiver: Receiver
) -> None:
    receiver.hold = asyncio.Event()
    async with managing(succeed, with_jobs(settings, retention_s=0.01)) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
        await asyncio.sleep(0.2)
        assert (await manager.get(job.id)).webhook == "pending"
        receiver.hold.set()

        async def gone() -> bool:
            return (await manager.list(None, 10, None)).data == ()

        await eventually(gone)


async def test_a_finished_job_is_deleted(managing: Managing) -> None:
    async with managing(succeed) as manager:
        job = await ended(manager, await manager.submit(request()))
        await manager.delete(job.id)
        for call in (manager.get, manager.delete):
            with pytest.raises(NotFound):
                await call(job.id)


async def test_with_a_job_goes_the_upload_that_was_left(
    managing: Managing, blobs: BlobStore, store: JobStore, tmp_path: Path
) -> None:
    await killed_before_cleaning_up(store, blobs, datetime.now(UTC))
    async with managing(succeed) as manager:
        await manager.delete("old")
        await no_uploads(tmp_path)


@pytest.mark.slow
async def test_many_jobs_are_listed_page_by_page(managing: Managing) -> None:
    async with managing(Gate()) as manager:
        jobs = await asyncio.gather(*(manager.submit(request()) for _ in range(250)))
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await manager.list(None, 100, cursor)
            seen += [job.id for job in page.data]
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
            await manager.register_sync(request())  # newer ones shift nothing
        newest_first = sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)
        assert seen == [job.id for job in newest_first]
        last = await manager.list(JobState.RUNNING, 4, None)
        assert (len(last.data), last.next_cursor) == (4, None)
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
async def test_a_bad_list_is_refused_by_name(
    managing: Managing, arguments: tuple[str | None, int, str | None], param: str
) -> None:
    async with managing(succeed) as manager:
        with pytest.raises(InvalidRequest) as refused:
            await manager.list(*arguments)
    assert refused.value.param == param


async def test_a_caller_that_goes_away_leaves_nothing_half_made(managing: Managing, store: JobStore) -> None:
    gate = Gate()
    async with managing(gate) as manager:
        job = await manager.submit(request())
        await gate.holds(1)
        cancelling = asyncio.create_task(manager.cancel(job.id))
        await asyncio.sleep(0)
        cancelling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelling
        assert (await ended(manager, job)).state is JobState.CANCELLED

        async def stopped() -> bool:
            return gate.cancelled == [job.id]

        await eventually(stopped)


async def test_everything_that_crosses_to_the_actor_is_picklable(managing: Managing) -> None:
    async def run(job: Job) -> Transcript:
        raise AudioError("no sound in it", "url")

    async with managing(run) as manager:
        job = await ended(manager, await manager.submit(request()))
        answers = (job, await manager.list(None, 10, None))
        errors = await asyncio.gather(
            manager.result(job.id), manager.get("unknown"), manager.list(None, 0, None), return_exceptions=True
        )
    assert pickle.loads(pickle.dumps(answers)) == answers
    for error in errors:
        assert isinstance(error, ServiceError)
        crossed = pickle.loads(pickle.dumps(error))
        assert (type(crossed), crossed.message, crossed.param) == (type(error), error.message, error.param)
