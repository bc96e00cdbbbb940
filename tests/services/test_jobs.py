"""The service bound to an owner: requests are validated before audio is stored, and jobs of others are invisible."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import ColumnElement

from serve_app.errors import IdempotencyConflict, NotFound, Overloaded, ServiceError
from serve_app.jobs.db import jobs as jobs_module
from serve_app.jobs.db.tables import jobs
from serve_app.schemas.job import JobState
from serve_app.schemas.request import (
    BlobSource,
    BodySource,
    DiarizationOptions,
    JobRequest,
    TranscriptionOptions,
    UrlSource,
    Webhook,
)
from serve_app.schemas.transcript import final_transcript
from serve_app.services.jobs import JobService
from serve_app.services.transcription import Service

AUDIO = (Path(__file__).parent.parent / "data/de.opus").read_bytes()
TEXT = "zwei sieben eins acht zwei acht"


class Body:
    """A request body that counts how often it is read."""

    def __init__(self, content: bytes = AUDIO) -> None:
        self.content = content
        self.reads = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.reads += 1
        yield self.content


def blob_folder(service: Service) -> Path:
    """Return the folder of blobs, which the first write creates."""
    return service.settings.data_dir / "blobs"


def request(webhook: str | None = None, **options: Any) -> JobRequest:
    return JobRequest(
        source=BodySource(),
        options=TranscriptionOptions(**options),
        webhook=None if webhook is None else Webhook(url=webhook),
    )


@pytest.mark.parametrize("operation", ["submit", "transcribe"])
@pytest.mark.parametrize(
    ("invalid_request", "status", "param"),
    [
        (request(model="whisper-huge"), 404, "model"),
        (request(max_new_tokens=10_000), 400, "max_new_tokens"),
        (request(diarization=DiarizationOptions()), 400, "diarization"),
        (request(webhook="ftp://example.com/done"), 400, "webhook.url"),
    ],
)
async def test_request_is_validated_before_its_body_is_read(
    service: Service, operation: str, invalid_request: JobRequest, status: int, param: str
) -> None:
    diarization = service.settings.diarization.model_copy(update={"enabled": False})
    service.settings = service.settings.model_copy(update={"diarization": diarization})
    body = Body()
    caller = JobService(service, "")
    runs: dict[str, Callable[[], Awaitable[object]]] = {
        "submit": lambda: caller.submit(invalid_request, body=aiter(body)),
        "transcribe": lambda: final_transcript(caller.transcribe(invalid_request, body=aiter(body))),
    }
    with pytest.raises(ServiceError) as error:
        await runs[operation]()
    assert (error.value.status, error.value.param) == (status, param)
    assert body.reads == 0
    assert not blob_folder(service).exists()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/jobs", {"files": {"file": AUDIO}, "data": {"model": "whisper-huge"}}),
        ("/v1/jobs", {"json": {"audio": base64.b64encode(AUDIO).decode(), "model": "whisper-huge"}}),
        ("/v1/audio/transcriptions", {"files": {"file": AUDIO}, "data": {"model": "whisper-huge"}}),
        ("/v1/audio/transcriptions", {"files": {"file": AUDIO}, "data": {"model": "whisper-huge", "stream": "true"}}),
        ("/v1/audio/translations", {"files": {"file": AUDIO}, "data": {"model": "whisper-huge"}}),
        ("/infer", {"json": {"audio": base64.b64encode(AUDIO).decode(), "model": "whisper-huge"}}),
    ],
)
async def test_file_for_an_unknown_model_is_not_stored(
    client: httpx.AsyncClient, service: Service, path: str, content: dict[str, Any]
) -> None:
    answer = await client.post(path, **content)
    assert answer.status_code == 404
    assert "whisper-huge" in answer.text
    assert not blob_folder(service).exists()


async def test_body_is_not_read_if_the_queue_is_full(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, body = JobService(service, "alice"), Body()
    job = await caller.submit(request(), "call-17", body=aiter(Body()))
    await caller.wait(job, 60)
    monkeypatch.setattr(service.jobs, "_max_queued", 0)
    with pytest.raises(Overloaded):
        await caller.submit(request(), body=aiter(body))
    assert body.reads == 0
    assert (await caller.submit(request(), "call-17", body=aiter(Body()))).id == job.id, "it needs no room"


async def test_body_is_stored_until_the_end_of_its_job(service: Service) -> None:
    caller, body = JobService(service, "alice"), Body()
    job = await caller.submit(request(), body=aiter(body))
    assert isinstance(job.request.source, BlobSource)
    job = await caller.wait(job, 60)
    assert (await caller.outcome(job)).text == TEXT
    assert (await final_transcript(caller.transcribe(request(), body=aiter(body)))).text == TEXT
    assert body.reads == 2
    assert list(blob_folder(service).iterdir()) == []


async def test_body_of_a_rejected_job_is_deleted(service: Service) -> None:
    caller = JobService(service, "alice")
    job = await caller.submit(request(), "call-17", body=aiter(Body()))
    await caller.wait(job, 60)
    with pytest.raises(IdempotencyConflict):
        await caller.submit(request(), "call-17", body=aiter(Body(b"another recording")))
    with pytest.raises(IdempotencyConflict):
        await final_transcript(caller.transcribe(request(), "call-17", body=aiter(Body(b"another recording"))))
    assert list(blob_folder(service).iterdir()) == []


async def test_visibility_condition_applies_to_all_operations(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = JobService(service, "alice"), JobService(service, "bob")
    job = await alice.submit(JobRequest(source=UrlSource(url="http://127.0.0.1:9/none.mp3")))
    job = await alice.wait(job, 60)
    assert (job.owner, job.state) == ("alice", JobState.FAILED)
    assert (await bob.get(job.id)).id == job.id  # no condition yet

    def is_own(owner: str) -> ColumnElement[bool]:
        return jobs.c.owner == owner

    monkeypatch.setattr(jobs_module, "_is_visible_to", is_own)
    operations: list[Callable[[JobService], Awaitable[Any]]] = [
        lambda caller: caller.get(job.id),
        lambda caller: caller.result(job.id),
        lambda caller: caller.events(job.id, 0, 0.0),
        lambda caller: caller.deliveries(job.id),
        lambda caller: caller.redeliver(job.id, None),
        lambda caller: caller.cancel(job.id),
        lambda caller: caller.wait(job.model_copy(update={"state": JobState.RUNNING}), 1.0),
        lambda caller: caller.delete(job.id),
    ]
    for operation in operations:
        with pytest.raises(NotFound):
            await operation(bob)
    assert (await bob.list(None, 10, None)).data == ()
    assert [listed.id for listed in (await alice.list(None, 10, None)).data] == [job.id]
    running = await service.jobs.register_sync(job.request, "call-18", owner="alice")
    assert (await bob.list_active(), await alice.list_active()) == ((), (running.id,))
    await alice.delete(job.id)
