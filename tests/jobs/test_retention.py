"""Deletion of jobs and uploads: at a job's end, on request and after the retention time."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.errors import NotFound
from serve_app.jobs.db.jobs import JobStore
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import BlobSource, JobRequest, Webhook
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from tests.jobs.helpers import (
    TRANSCRIPT,
    Gate,
    OpenManager,
    Receiver,
    files,
    request,
    succeed,
    upload,
    wait_for_job,
    wait_until,
    with_jobs,
)


async def wait_until_no_uploads(tmp_path: Path) -> None:
    async def is_empty() -> bool:
        return files(tmp_path / "blobs") == []

    await wait_until(is_empty)


async def test_upload_is_deleted_with_the_end_of_its_job(
    open_manager: OpenManager, blobs: BlobStore, tmp_path: Path
) -> None:
    gate = Gate()

    async def run(job: Job) -> Transcript:
        if job.attempts == 1:
            raise RuntimeError
        assert isinstance(job.request.source, BlobSource)
        await blobs.copy(job.request.source.key, tmp_path / "copy")
        return await gate(job)

    async with open_manager(run) as manager:
        jobs = [await manager.submit(JobRequest(source=await upload(blobs))) for _ in range(2)]
        await gate.wait_for_runs(2)
        assert len(files(tmp_path / "blobs")) == 2
        await manager.cancel(jobs[0].id)
        assert len(files(tmp_path / "blobs")) == 1
        gate.opened.set()
        assert (await wait_for_job(manager, jobs[1])).state is JobState.SUCCEEDED
        await wait_until_no_uploads(tmp_path)
        sync = await manager.register_sync(JobRequest(source=await upload(blobs)))
        await manager.complete(sync.id, TRANSCRIPT)
        await wait_until_no_uploads(tmp_path)


async def add_ended_job_with_upload(store: JobStore, blobs: BlobStore, at: datetime) -> None:
    """Add an ended job `old` with its upload, as a process leaves it that was killed before it deleted the upload."""
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


async def test_ended_jobs_are_deleted_after_the_retention_time(
    open_manager: OpenManager, settings: AppSettings, blobs: BlobStore, store: JobStore, tmp_path: Path
) -> None:
    await add_ended_job_with_upload(store, blobs, datetime.now(UTC) - timedelta(hours=25))
    async with open_manager(succeed) as manager:
        await wait_until_no_uploads(tmp_path)
        with pytest.raises(NotFound):
            await manager.get("old")
        young = await wait_for_job(manager, await manager.submit(request()))
        assert await manager.get(young.id) == young
    async with open_manager(succeed, with_jobs(settings, retention_s=0.01)) as manager:

        async def is_empty() -> bool:
            return (await manager.list(None, 10, None)).data == ()

        await wait_until(is_empty)


async def test_job_with_a_pending_webhook_is_kept(
    open_manager: OpenManager, settings: AppSettings, receiver: Receiver
) -> None:
    receiver.release = asyncio.Event()
    async with open_manager(succeed, with_jobs(settings, retention_s=0.01)) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
        await asyncio.sleep(0.2)
        assert (await manager.get(job.id)).webhook == "pending"
        receiver.release.set()

        async def is_empty() -> bool:
            return (await manager.list(None, 10, None)).data == ()

        await wait_until(is_empty)


async def test_delete_an_ended_job(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        job = await wait_for_job(manager, await manager.submit(request()))
        await manager.delete(job.id)
        for call in (manager.get, manager.delete):
            with pytest.raises(NotFound):
                await call(job.id)


async def test_delete_removes_a_leftover_upload(
    open_manager: OpenManager, blobs: BlobStore, store: JobStore, tmp_path: Path
) -> None:
    await add_ended_job_with_upload(store, blobs, datetime.now(UTC))
    async with open_manager(succeed) as manager:
        await manager.delete("old")
        await wait_until_no_uploads(tmp_path)
