"""Calls between processes that may die: sent again when the callee was lost, never twice on purpose."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import (
    ActorHandleNotFoundError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from serve_app.errors import Unavailable
from serve_app.jobs.models import Job
from serve_app.transcript import Transcript

LOST = (
    RayActorError,
    ActorHandleNotFoundError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
"""What Ray raises when the callee, not its code, failed. Serve does not send such a call again itself."""

ATTEMPTS = 6
"""With the waits below, about 15 s: a replica or actor is back well within that on a warm node."""


def _lost(error: BaseException) -> bool:
    # An error that the callee's own code raised comes as a RayTaskError that also poses as its cause.
    return isinstance(error, LOST) and not isinstance(error, RayTaskError)


async def call(what: str, send: Callable[[], Any]) -> Any:
    """Await `send()`, sending again while the callee is lost.

    Raises what the callee raised, or Unavailable when it stays away. Cancelling the call
    cancels the work at the callee.
    """
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_lost),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(initial=0.5, max=5),
        ):
            with attempt:
                return await _answer(send())
    except RetryError as error:
        raise Unavailable(f"{what} is away for the moment: try again", None, "unavailable") from error


def transcriber(handle: DeploymentHandle) -> Callable[[Job], Awaitable[Transcript]]:
    """The transcriber deployment as a function of a job."""

    async def transcribe(job: Job) -> Transcript:
        transcript: Transcript = await call("the transcriber", lambda: handle.transcribe.remote(job))
        return transcript

    return transcribe


async def _answer(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        if isinstance(response, DeploymentResponse):
            response.cancel()
        raise
    except RayTaskError as error:
        raise error.cause from None
