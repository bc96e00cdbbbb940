"""Synchronous transcription as a stream, with a stand-in for the transcriber."""

import asyncio
from typing import Any

import pytest

from serve_app.errors import RequestTimeout
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import JobRequest, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import TextDelta, Transcript
from serve_app.services.transcription import Service

REQUEST = JobRequest(source=UrlSource(url="http://127.0.0.1:9/a.mp3"), options=TranscriptionOptions())
DELTA = TextDelta(text="one")
TRANSCRIPT = Transcript(task="transcribe", language="en", duration=1, text="one", segments=())


class Transcriber:
    """Yields a delta if `stream`, waits until `done` is set, and yields the transcript."""

    def __init__(self, service: Service) -> None:
        self.done = asyncio.Event()
        self.cancelled = False
        service._transcribe = self

    async def __call__(self, job: Job, stream: bool = False) -> Any:
        if stream:
            yield DELTA
        try:
            await self.done.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise
        yield TRANSCRIPT


@pytest.fixture
def transcriber(service: Service) -> Transcriber:
    return Transcriber(service)


async def get_state(service: Service) -> JobState:
    return (await service.jobs.list(None, 1, None, owner="")).data[0].state


async def test_transcript_is_yielded_after_the_end_is_stored(service: Service, transcriber: Transcriber) -> None:
    stream = service.transcribe(REQUEST, stream=True)
    assert await anext(stream) == DELTA
    assert await get_state(service) == "running"
    transcriber.done.set()
    assert await anext(stream) == TRANSCRIPT
    assert await get_state(service) == "succeeded"
    assert await anext(stream, None) is None
    assert not transcriber.cancelled


async def test_ended_job_is_not_run_again(service: Service, transcriber: Transcriber) -> None:
    transcriber.done.set()
    for _ in range(2):
        assert [item async for item in service.transcribe(REQUEST, job_id="mine")] == [TRANSCRIPT]
        transcriber.done.clear()


async def test_cancelled_consumer_cancels_the_job(service: Service, transcriber: Transcriber) -> None:
    stream = service.transcribe(REQUEST, stream=True)
    assert await anext(stream) == DELTA
    consumer = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert transcriber.cancelled
    assert await get_state(service) == "cancelled"


async def test_closed_stream_cancels_the_job(service: Service, transcriber: Transcriber) -> None:
    stream = service.transcribe(REQUEST, stream=True)
    assert await anext(stream) == DELTA
    await stream.aclose()
    assert await get_state(service) == "cancelled"


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"network": {"allow_private_addresses": True}, "limits": {"request_timeout_s": 0.3}}

    @pytest.mark.slow
    async def test_time_limit_of_the_whole_stream(self, service: Service, transcriber: Transcriber) -> None:
        """Each item is awaited in a task of its own, as `kept_alive` does."""
        stream = service.transcribe(REQUEST, stream=True)
        assert await asyncio.create_task(anext(stream)) == DELTA  # type: ignore[arg-type]
        with pytest.raises(RequestTimeout, match="not finished within"):
            await asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        assert transcriber.cancelled
        assert await get_state(service) == "failed"
