"""Calls between processes that may die: sent again when the callee was lost, never twice on purpose."""

import asyncio
from collections.abc import Callable
from functools import partial
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
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from serve_app.errors import NotDelivered, Unavailable
from serve_app.schemas.job import Job
from serve_app.schemas.transcript import OnDelta, TextDelta, Transcript
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
"""Replicas that work may take down with it before it is given up: it may be what kills them."""


def _is_actor_failure(error: BaseException) -> bool:
    # An error that the callee's own code raised comes as a RayTaskError that also poses as its cause.
    return isinstance(error, ACTOR_FAILURES) and not isinstance(error, RayTaskError)


async def call_with_retry(what: str, send: Callable[[], Any], max_deaths: int = ATTEMPTS) -> Any:
    """Await `send()`, sending again while the callee is lost, `max_deaths` times at most while it was at work.

    Raises what the callee raised, Away when it never got the call, else Unavailable. Cancelling the call
    cancels the work at the callee.
    """
    deaths = 0

    def again(error: BaseException) -> bool:
        nonlocal deaths
        deaths += not isinstance(error, UNDELIVERED)
        return _is_actor_failure(error) and deaths < max_deaths

    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(again),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(initial=0.5, max=5),
            reraise=True,
        ):
            with attempt:
                return await _await_response(send())
    except Exception as error:
        if not _is_actor_failure(error):
            raise
        kind = Unavailable if deaths else NotDelivered
        raise kind(f"{what} is away for the moment: try again", None, "unavailable") from error


def transcriber_client(handle: DeploymentHandle, max_deaths: int = MAX_REPLICA_FAILURES) -> Transcribe:
    """The transcriber deployment as a function of a job."""

    async def transcribe(job: Job, tell: OnDelta | None = None) -> Transcript:
        send = (
            partial(handle.transcribe.remote, job)
            if tell is None
            else partial(stream_response, _ReplayFilter(tell), job)
        )
        transcript: Transcript = await call_with_retry("the transcriber", send, max_deaths)
        return transcript

    async def stream_response(tell: "_ReplayFilter", job: Job) -> Transcript:
        response = handle.options(stream=True).transcribe_telling.remote(job)
        tell.begin()
        try:
            async for item in response:
                if isinstance(item, Transcript):
                    return item
                tell(item)
        except BaseException:
            response.cancel()
            raise
        raise AssertionError("a transcriber's last word is the transcript")

    return transcribe


class _ReplayFilter:
    """Hands on each piece of a text once, though a replica that takes over tells them all again."""

    def __init__(self, tell: OnDelta) -> None:
        self._tell = tell
        self._told: list[str] = []
        self._place = 0

    def begin(self) -> None:
        """From the first piece again."""
        self._place = 0

    def __call__(self, said: TextDelta) -> None:
        if self._place == len(self._told):
            self._told.append(said.text)
            self._tell(said)
        elif self._told[self._place] != said.text:
            raise Unavailable("the transcriber was lost, and another one heard something else: try again")
        self._place += 1


async def _await_response(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        if isinstance(response, DeploymentResponse):
            response.cancel()
        raise
    except RayTaskError as error:
        raise error.cause from None
