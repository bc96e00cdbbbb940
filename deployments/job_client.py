"""Calls to the job manager's actor, from any process of the application."""

import asyncio
import hashlib
import json
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, cast

import ray
from pydantic import SecretStr
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from deployments.retry import call_with_retry
from serve_app.jobs.api import OPERATIONS, JobOperations
from serve_app.settings import AppSettings

NAMESPACE = "whisper"
"""The Ray namespace of the actor."""

CLOSE_S = 30.0
"""Time that a job manager may take to stop when it is replaced, in seconds."""


def job_client(app_name: str) -> JobOperations:
    """Return the operations of an application's job manager. Calls are retried while its actor restarts."""
    actor: ActorHandle | None = None

    async def call(operation: str, *args: Any, **kwargs: Any) -> Any:
        async def send() -> Any:
            nonlocal actor
            if actor is None:
                actor = ray.get_actor(_actor_name(app_name), namespace=NAMESPACE)
            try:
                return await getattr(actor, operation).remote(*args, **kwargs)
            except RayActorError:
                actor = None  # if the actor was replaced, its name leads to the new one
                raise

        return await call_with_retry("the job manager", send)

    return cast(JobOperations, SimpleNamespace(**{operation: partial(call, operation) for operation in OPERATIONS}))


async def ensure_job_manager(app_name: str, settings: AppSettings) -> None:
    """Start the job manager's actor, or replace an actor that was created from another fingerprint."""
    fingerprint = _fingerprint(settings)
    while True:
        actor = _get_or_create_actor(app_name, settings, fingerprint)
        try:
            if await actor.fingerprint.remote() == fingerprint:
                return
            # An actor that cannot close, or of a version without `close`, is killed all the same.
            with suppress(TimeoutError, RayTaskError):
                await asyncio.wait_for(actor.close.remote(), CLOSE_S)
            ray.kill(actor)
        except RayActorError as error:
            if error.actor_init_failed:
                raise
            # Another replica has replaced the actor, or it is restarting: look it up again.
            await asyncio.sleep(0.2)


def _get_or_create_actor(app_name: str, settings: AppSettings, fingerprint: str) -> ActorHandle:
    with suppress(ValueError):
        return ray.get_actor(_actor_name(app_name), namespace=NAMESPACE)
    from deployments.job_manager import JobManagerActor  # imports SQLAlchemy, which other processes do not need

    return (
        ray.remote(JobManagerActor)
        .options(
            name=_actor_name(app_name),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            # On the head node, like Serve's own controller: it outlives the workers.
            resources={"node:__internal_head__": 0.001},
            max_restarts=-1,
            # Ray must not retry: a call that crashes the actor would crash it again and again.
            max_task_retries=0,
        )
        .remote(settings, app_name, fingerprint)
    )


def _actor_name(app_name: str) -> str:
    return f"job-manager:{app_name}"


def _fingerprint(settings: AppSettings) -> str:
    """Return a hash of the settings, the code's version and the Serve instance.

    A detached actor outlives all three: an actor created from other settings would ignore the new ones, and an actor
    from before a `serve shutdown` holds handles that lead nowhere.
    """
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    parts = settings.model_dump(), version("whisper-serve"), controller._actor_id.hex()
    return hashlib.sha256(json.dumps(parts, default=_to_text).encode()).hexdigest()


def _to_text(value: Any) -> str:
    # In pydantic's own JSON, every secret is the same row of asterisks.
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
