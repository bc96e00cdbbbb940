"""Streams that are restarted when their replica is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import ReplicaUnavailableError

from deployments.retry import ATTEMPTS, MAX_REPLICA_FAILURES, call_with_retry, skip_sent_deltas, transcriber_client
from serve_app.errors import NotDelivered, Unavailable
from serve_app.schemas.job import Job
from serve_app.schemas.request import JobRequest, UrlSource
from serve_app.schemas.transcript import TextDelta, Transcript, TranscriptStream

UNDELIVERED = ReplicaUnavailableError(DeploymentID("Transcriber", "whisper"))
JOB = Job.running("job", JobRequest(source=UrlSource(url="http://example.com/a.mp3")))


def transcript(texts: list[str]) -> Transcript:
    return Transcript(task="transcribe", language="en", duration=1, text="".join(texts), segments=())


async def stream_of(texts: list[str], lost_after: int | None = None) -> TranscriptStream:
    """Yield these deltas and the transcript, or fail after `lost_after` deltas."""
    for text in texts[:lost_after]:
        yield TextDelta(text=text)
    if lost_after is not None:
        raise ActorDiedError
    yield transcript(texts)


@given(st.lists(st.sampled_from(["one", " two", " three"]), max_size=8), st.lists(st.integers(0, 8), max_size=4))
def test_each_delta_is_sent_once(texts: list[str], lost_after_counts: list[int]) -> None:
    async def run() -> list[Any]:
        received, sent = [], []  # type: ignore[var-annotated]
        for lost_after in [*(min(count, len(texts)) for count in lost_after_counts), None]:
            try:
                async for item in skip_sent_deltas(stream_of(texts, lost_after), sent):
                    received.append(item)
            except ActorDiedError:
                assert lost_after is not None
        return received

    *deltas, last = asyncio.run(run())
    assert [delta.text for delta in deltas] == texts
    assert last == transcript(texts)


@pytest.mark.parametrize("texts", [["one", " too"], ["one"]], ids=["another text", "a shorter text"])
async def test_restarted_stream_with_another_text(texts: list[str]) -> None:
    with pytest.raises(Unavailable, match="differs"):
        await anext(skip_sent_deltas(stream_of(texts), ["one", " two"]))


class Replicas:
    """A deployment's handle whose calls return the given streams or raise the given errors."""

    def __init__(self, *streams: TranscriptStream | Exception) -> None:
        self._streams = iter(streams)
        self.cancelled = 0
        self.calls = 0
        self.transcribe = self

    def options(self, stream: bool) -> "Replicas":
        assert stream
        return self

    def remote(self, job: Job, stream: bool, log_fields: Mapping[str, str]) -> "Response":
        self.calls += 1
        return Response(self, next(self._streams))


class Response:
    def __init__(self, replicas: Replicas, stream: TranscriptStream | Exception) -> None:
        self._replicas = replicas
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[Any]:
        if isinstance(self._stream, Exception):
            raise self._stream
        async for item in self._stream:
            yield item

    def cancel(self) -> None:
        self._replicas.cancelled += 1


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.retry.wait_exponential_jitter", lambda **_: lambda state: 0.0)


async def test_stream_continues_on_another_replica() -> None:
    texts = ["one", " two", " three"]
    replicas = Replicas(stream_of(texts, 1), UNDELIVERED, stream_of(texts, 2), stream_of(texts))
    items = [item async for item in transcriber_client(replicas)(JOB, True)]
    assert items == [*(TextDelta(text=text) for text in texts), transcript(texts)]
    assert (replicas.calls, replicas.cancelled) == (4, 0)


async def test_replica_failures_are_limited() -> None:
    replicas = Replicas(*(stream_of(["one"], 0) for _ in range(MAX_REPLICA_FAILURES)))
    with pytest.raises(Unavailable) as error:
        await anext(transcriber_client(replicas)(JOB))
    assert not isinstance(error.value, NotDelivered)


async def test_undelivered_job() -> None:
    replicas = Replicas(*(UNDELIVERED for _ in range(ATTEMPTS)))
    with pytest.raises(NotDelivered, match="the transcriber is unavailable"):
        await anext(transcriber_client(replicas)(JOB))


async def test_errors_of_the_callee_are_not_retried() -> None:
    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise OSError("on fire")

    calls = 0
    with pytest.raises(OSError, match="on fire"):
        await call_with_retry("the callee", fail)
    assert calls == 1


@pytest.mark.parametrize("closed", [True, False])
async def test_stopped_consumer_cancels_the_call(closed: bool) -> None:
    async def hang() -> TranscriptStream:
        yield TextDelta(text="one")
        await asyncio.sleep(3600)

    replicas = Replicas(hang())
    stream = transcriber_client(replicas)(JOB, True)
    assert await anext(stream) == TextDelta(text="one")
    if closed:
        await stream.aclose()
    else:
        consumer = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
    assert (replicas.calls, replicas.cancelled) == (1, 1)
