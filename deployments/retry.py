"""Calls to processes that may die: a call is sent again when its callee was lost."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

from ray.exceptions import (
    ActorHandleNotFoundError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from serve_app.errors import NotDelivered, Unavailable
from serve_app.observability.logs import log_fields
from serve_app.schemas.job import Job
from serve_app.schemas.transcript import TextDelta, TranscriptStream
from serve_app.services.transcription import Transcribe

UNDELIVERED = (DeploymentUnavailableError, ReplicaUnavailableError)
"""Exceptions of Serve for calls that were not delivered."""

ACTOR_FAILURES = (
    RayActorError,
    ActorHandleNotFoundError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    *UNDELIVERED,
)
"""Exceptions of Ray for failures of the callee's process, not of its code. Serve does not retry such calls."""

ATTEMPTS = 6
"""With the waits below, about 15 s: a replica or actor is back well within that on a warm node."""

MAX_REPLICA_FAILURES = 3
"""Replicas that may die during a call before the call fails: the call may be what kills them."""


async def call_with_retry(what: str, send: Callable[[], Any], max_failures: int = ATTEMPTS) -> Any:
    """Await `send()`, again whenever the callee is lost.

    Raises what the callee raised; NotDelivered if no attempt reached a callee; Unavailable after `max_failures`
    callees were lost. Cancelling the call cancels the work at the callee.
    """
    return await _attempts(what, max_failures)(_await_response, send)


def transcriber_client(handle: DeploymentHandle, max_failures: int = MAX_REPLICA_FAILURES) -> Transcribe:
    """Return the transcriber deployment as a function. A stream is restarted when its replica is lost.

    Raises as `call_with_retry` does.
    """
    send = handle.options(stream=True).transcribe.remote

    async def transcribe(job: Job, stream: bool = False) -> TranscriptStream:
        sent: list[str] = []
        async for attempt in _attempts("the transcriber", max_failures):
            with attempt:
                async with aclosing(skip_sent_deltas(_stream_response(send(job, stream, log_fields())), sent)) as items:
                    async for item in items:
                        yield item

    return transcribe


async def skip_sent_deltas(stream: TranscriptStream, sent: list[str]) -> TranscriptStream:
    """Yield the items of a stream without the deltas that an earlier stream of the same job already sent.

    `sent`: the texts of those deltas; the texts of further ones are appended. Raises Unavailable if the text differs.
    """
    position = 0
    async with aclosing(stream):
        async for item in stream:
            replayed = position < len(sent)
            if replayed and not (isinstance(item, TextDelta) and item.text == sent[position]):
                raise Unavailable("the transcriber was restarted, and its text differs from what was sent: try again")
            position += 1
            if replayed:
                continue
            if isinstance(item, TextDelta):
                sent.append(item.text)
            yield item


def _attempts(what: str, max_failures: int) -> AsyncRetrying:
    """Return the attempts of a call, which end with an error as `call_with_retry` says."""
    failures = 0

    def is_over(state: RetryCallState) -> bool:
        nonlocal failures
        assert state.outcome is not None
        failures += not isinstance(state.outcome.exception(), UNDELIVERED)
        return failures >= max_failures or state.attempt_number >= ATTEMPTS

    def fail(state: RetryCallState) -> NoReturn:
        assert state.outcome is not None
        kind = Unavailable if failures else NotDelivered
        raise kind(f"{what} is unavailable: try again", None, "unavailable") from state.outcome.exception()

    return AsyncRetrying(
        retry=retry_if_exception(_is_actor_failure),
        stop=is_over,
        wait=wait_exponential_jitter(initial=0.5, max=5),
        retry_error_callback=fail,
    )


def _is_actor_failure(error: BaseException) -> bool:
    # An error that the callee's own code raised comes as a RayTaskError that also poses as its cause.
    return isinstance(error, ACTOR_FAILURES) and not isinstance(error, RayTaskError)


async def _await_response(send: Callable[[], Any]) -> Any:
    response = send()
    try:
        return await response
    except asyncio.CancelledError:
        if isinstance(response, DeploymentResponse):
            response.cancel()
        raise
    except RayTaskError as error:
        raise error.cause from None


async def _stream_response(response: DeploymentResponseGenerator) -> AsyncGenerator[Any]:
    """Yield the items of a streaming call. Its work is cancelled if it is not read to its end."""
    try:
        async for item in response:
            yield item
    except (asyncio.CancelledError, GeneratorExit):
        response.cancel()
        raise
    except RayTaskError as error:
        raise error.cause from None
