"""Duplicate submits create one job."""

import asyncio
from pathlib import Path

import pytest

from serve_app.errors import IdempotencyConflict
from serve_app.jobs.db.engine import Database
from serve_app.schemas.job import JobState
from serve_app.schemas.request import JobRequest
from serve_app.storage.blobs import BlobStore
from tests.jobs.helpers import Gate, OpenManager, files, request, succeed, upload, wait_for_job

OTHER = request(url="https://example.com/other.mp3")


async def test_same_key_and_request_are_the_same_job(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        first = await manager.submit(request(), owner="alice", idempotency_key="k")
        assert (await manager.submit(request(), owner="alice", idempotency_key="k")).id == first.id
        await wait_for_job(manager, first)
        again = await manager.submit(request(), owner="alice", idempotency_key="k")
        assert (again.id, again.state, again.attempts) == (first.id, JobState.SUCCEEDED, 1)
        with pytest.raises(IdempotencyConflict, match="'k' was used for another request") as refused:
            await manager.submit(OTHER, owner="alice", idempotency_key="k")
        assert (refused.value.status, refused.value.param) == (422, "Idempotency-Key")
        assert (await manager.submit(OTHER, owner="bob", idempotency_key="k")).id != first.id
        assert (await manager.submit(request(), owner="alice", idempotency_key="l")).id != first.id
        assert (await manager.submit(request(), owner="alice")).id != first.id
        await manager.delete(first.id)
        assert (await manager.submit(OTHER, owner="alice", idempotency_key="k")).id != first.id


async def test_same_id_and_request_are_the_same_job(open_manager: OpenManager) -> None:
    async with open_manager(Gate()) as manager:
        for call in (manager.submit, manager.register_sync):
            name = f"my.job-{call.__name__}"
            assert {(await call(request(), name, owner="alice")).id for _ in range(3)} == {name}
            for other, owner in ((OTHER, "alice"), (request(), "bob")):
                with pytest.raises(IdempotencyConflict, match=f"already a job '{name}' for another request") as refused:
                    await call(other, name, owner=owner)
                assert (refused.value.status, refused.value.param) == (422, "id")
        assert len((await manager.list(None, 10, None)).data) == 2


async def test_concurrent_duplicates_are_one_job(open_manager: OpenManager, database_url: str) -> None:
    other = await Database.open(database_url)
    async with open_manager(succeed) as here, open_manager(succeed, lease_owner="there", database=other) as there:
        for round_ in range(5):
            jobs = await asyncio.gather(
                *(
                    manager.submit(request(), owner="alice", idempotency_key=f"k{round_}")
                    for manager in (here, there)
                    for _ in range(10)
                )
            )
            assert len({job.id for job in jobs}) == 1
            jobs = await asyncio.gather(
                *(manager.submit(request(), f"id{round_}") for manager in (here, there) for _ in range(10))
            )
            assert {job.id for job in jobs} == {f"id{round_}"}
            await wait_for_job(here, jobs[0])
        page = await here.list(None, 100, None)
        assert len(page.data) == 10
        for job in page.data:
            assert (await wait_for_job(here, job)).attempts == 1
    await other.close()


@pytest.mark.parametrize("name", ["id", "key"])
async def test_upload_of_a_duplicate_is_deleted(
    open_manager: OpenManager, blobs: BlobStore, tmp_path: Path, name: str
) -> None:
    gate = Gate()
    async with open_manager(gate) as manager:
        sources = [await upload(blobs) for _ in range(3)]
        arguments = {"job_id": "mine"} if name == "id" else {"idempotency_key": "k"}
        jobs = [await manager.submit(JobRequest(source=source), **arguments) for source in sources]  # type: ignore[arg-type]
        assert len({job.id for job in jobs}) == 1
        assert [path.name for path in files(tmp_path / "blobs")] == [sources[0].key]
        # The same call again, as after a lost answer: the job's own upload stays.
        await manager.submit(JobRequest(source=sources[0]), **arguments)  # type: ignore[arg-type]
        assert [path.name for path in files(tmp_path / "blobs")] == [sources[0].key]
        another = await upload(blobs, b"another")
        with pytest.raises(IdempotencyConflict):
            await manager.submit(JobRequest(source=another), **arguments)  # type: ignore[arg-type]
        await blobs.delete(another.key)  # as its uploader does
        gate.opened.set()
        await wait_for_job(manager, jobs[0])
        await manager.submit(JobRequest(source=await upload(blobs)), **arguments)  # type: ignore[arg-type]
        assert files(tmp_path / "blobs") == []
