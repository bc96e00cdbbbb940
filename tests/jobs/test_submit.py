"""The same submit twice: one job."""

import asyncio
from pathlib import Path

import pytest

from serve_app.errors import IdempotencyConflict
from serve_app.jobs.db.engine import Database
from serve_app.schemas.job import JobState
from serve_app.schemas.request import JobRequest
from serve_app.storage.blobs import BlobStore
from tests.jobs.helpers import Gate, Managing, ended, files, request, succeed, upload

OTHER = request(url="https://example.com/other.mp3")


async def test_the_same_key_and_request_are_the_same_job(managing: Managing) -> None:
    async with managing(succeed) as manager:
        first = await manager.submit(request(), owner="alice", idempotency_key="k")
        assert (await manager.submit(request(), owner="alice", idempotency_key="k")).id == first.id
        await ended(manager, first)
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


async def test_the_same_id_and_request_are_the_same_job(managing: Managing) -> None:
    async with managing(Gate()) as manager:
        for call in (manager.submit, manager.register_sync):
            name = f"my.job-{call.__name__}"
            assert {(await call(request(), name, owner="alice")).id for _ in range(3)} == {name}
            for other, owner in ((OTHER, "alice"), (request(), "bob")):
                with pytest.raises(IdempotencyConflict, match=f"already a job '{name}' for another request") as refused:
                    await call(other, name, owner=owner)
                assert (refused.value.status, refused.value.param) == (422, "id")
        assert len((await manager.list(None, 10, None)).data) == 2


async def test_twenty_at_once_are_one_job(managing: Managing, database_url: str) -> None:
    other = await Database.open(database_url)
    async with managing(succeed) as here, managing(succeed, lease_owner="there", database=other) as there:
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
            await ended(here, jobs[0])
        page = await here.list(None, 100, None)
        assert len(page.data) == 10
        for job in page.data:
            assert (await ended(here, job)).attempts == 1
    await other.close()


@pytest.mark.parametrize("name", ["id", "key"])
async def test_an_upload_that_is_brought_again_is_dropped_and_the_first_kept(
    managing: Managing, blobs: BlobStore, tmp_path: Path, name: str
) -> None:
    gate = Gate()
    async with managing(gate) as manager:
        sources = [await upload(blobs) for _ in range(3)]
        arguments = {"job_id": "mine"} if name == "id" else {"idempotency_key": "k"}
        jobs = [await manager.submit(JobRequest(source=source), **arguments) for source in sources]  # type: ignore[arg-type]
        assert len({job.id for job in jobs}) == 1
        assert [path.name for path in files(tmp_path / "blobs")] == [sources[0].key]
        # The very same call once more, as when its answer was lost: the job's own upload stays.
        await manager.submit(JobRequest(source=sources[0]), **arguments)  # type: ignore[arg-type]
        assert [path.name for path in files(tmp_path / "blobs")] == [sources[0].key]
        another = await upload(blobs, b"another")
        with pytest.raises(IdempotencyConflict):
            await manager.submit(JobRequest(source=another), **arguments)  # type: ignore[arg-type]
        await blobs.delete(another.key)  # by who brought it
        gate.opened.set()
        await ended(manager, jobs[0])
        await manager.submit(JobRequest(source=await upload(blobs)), **arguments)  # type: ignore[arg-type]
        assert files(tmp_path / "blobs") == []
