"""The detached actor that keeps the jobs, and how replicas reach it."""

import asyncio
import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import ray
from pydantic import SecretStr
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from deployments.retry import call_with_retry, transcriber_client
from serve_app.net.ssrf import guarded_session
from serve_app.schemas.job import DeliveryView, Job, JobError, JobEvent, JobPage, JobState, WebhookState
from serve_app.schemas.request import JobRequest
from serve_app.schemas.transcript import Transcript, final_transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore

NAMESPACE = "whisper"

CLOSE_S = 30.0
"""Seconds that a job manager may take to stop when it is replaced."""


class JobManagerActor:
    """The job manager of one application, in a process of its own that Ray restarts."""

    async def __init__(self, settings: AppSettings, app_name: str, fingerprint: str) -> None:  # type: ignore[misc]
        from serve_app.fronts.registry import webhook_payloads
        from serve_app.jobs.db.engine import Database  # and with it SQLAlchemy, which no replica needs
        from serve_app.jobs.manager import JobManager

        self._fingerprint = fingerprint
        # A replica that dies is counted with the job: the manager runs the job again itself.
        transcribe = transcriber_client(serve.get_deployment_handle("Transcriber", app_name), max_failures=1)
        self._manager = JobManager(
            settings,
            await Database.open(settings.database_url),
            BlobStore(settings.blob_root),
            lambda job: final_transcript(transcribe(job)),
            guarded_session(settings.network),
            # The same after Ray has restarted this actor: it takes up at once what it ran before.
            holder=ray.get_runtime_context().get_actor_id(),
            webhook_payloads=webhook_payloads(),
        )
        await self._manager.start()

    async def fingerprint(self) -> str:
        """The arguments this actor was created with."""
        return self._fingerprint

    async def close(self) -> None:
        """Put running jobs back into the queue, uncounted: another actor takes over."""
        await self._manager.close()

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the job manager."""
        return await getattr(self._manager, method)(*args)


def _fingerprint(settings: AppSettings) -> str:
    """Changes with the settings, the code's version and the Serve instance.

    A detached actor outlives all three; one made from other settings would ignore the new
    ones, and one from before a `serve shutdown` holds handles that lead nowhere.
    """
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    parts = settings.model_dump(), version("whisper-serve"), controller._actor_id.hex()
    return hashlib.sha256(json.dumps(parts, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> str:
    # pydantic's own JSON would show every secret as the same stars.
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class RemoteJobs:
    """The job manager, called through its actor; away for a moment, it is waited for."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._actor: ActorHandle | None = None

    async def ensure(self, settings: AppSettings) -> None:
        """Start the actor, or replace one that was made from something else."""
        fingerprint = _fingerprint(settings)
        while self._actor is None:
            actor = (
                ray.remote(JobManagerActor)
                .options(
                    name=self._name,
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,
                    # On the head node, like Serve's own controller: it outlives the workers.
                    resources={"node:__internal_head__": 0.001},
                    max_restarts=-1,
                    # Never: a call that crashes the actor would crash it for ever.
                    max_task_retries=0,
                )
                .remote(settings, self._app_name, fingerprint)
            )
            try:
                if await actor.fingerprint.remote() == fingerprint:
                    self._actor = actor
                else:
                    # One that can't close, or of a version that knows no such call, goes all the same.
                    with suppress(TimeoutError, RayTaskError):
                        await asyncio.wait_for(actor.close.remote(), CLOSE_S)
                    ray.kill(actor)
            except RayActorError as error:
                if error.actor_init_failed:
                    raise
                # Another replica replaced it, or it is starting again: look once more.
                await asyncio.sleep(0.2)

    @property
    def _name(self) -> str:
        return f"job-manager:{self._app_name}"

    async def _call(self, method: str, *args: Any) -> Any:
        async def send() -> Any:
            if self._actor is None:
                self._actor = ray.get_actor(self._name, namespace=NAMESPACE)
            try:
                return await self._actor.call.remote(method, *args)
            except RayActorError:
                self._actor = None  # if it was replaced, its name leads to the new one
                raise

        return await call_with_retry("the job manager", send)

    async def submit(
        self, request: JobRequest, job_id: str, owner: str = "", idempotency_key: str | None = None
    ) -> Job:
        return await self._call("submit", request, job_id, owner, idempotency_key)

    async def known(self, request: JobRequest, job_id: str, owner: str, idempotency_key: str | None) -> Job | None:
        return await self._call("known", request, job_id, owner, idempotency_key)

    async def announce(self, request: JobRequest, job_id: str, owner: str = "") -> Job:
        return await self._call("announce", request, job_id, owner)

    async def finish(self, job_id: str, transcript: Transcript) -> None:
        return await self._call("finish", job_id, transcript)

    async def fail(self, job_id: str, error: JobError) -> None:
        return await self._call("fail", job_id, error)

    async def abandon(self, job_id: str) -> None:
        return await self._call("abandon", job_id)

    async def progress(self, job_id: str, attempt: int, fraction: float) -> None:
        return await self._call("progress", job_id, attempt, fraction)

    async def keep(self, job_id: str, attempt: int, number: int, content: str) -> None:
        return await self._call("keep", job_id, attempt, number, content)

    async def kept(self, job_id: str) -> dict[int, str]:
        return await self._call("kept", job_id)

    async def get(self, job_id: str) -> Job:
        return await self._call("get", job_id)

    async def result(self, job_id: str) -> Transcript:
        return await self._call("result", job_id)

    async def list(
        self, state: JobState | None, limit: int, cursor: str | None, webhook: WebhookState | None = None
    ) -> JobPage:
        return await self._call("list", state, limit, cursor, webhook)

    async def active(self) -> tuple[str, ...]:
        return await self._call("active")

    async def events(self, job_id: str, after: int, wait_s: float) -> tuple[JobEvent, ...]:
        return await self._call("events", job_id, after, wait_s)

    async def deliveries(self, job_id: str) -> tuple[DeliveryView, ...]:
        return await self._call("deliveries", job_id)

    async def redeliver(self, job_id: str, delivery_id: str | None) -> tuple[DeliveryView, ...]:
        return await self._call("redeliver", job_id, delivery_id)

    async def cancel(self, job_id: str) -> Job:
        return await self._call("cancel", job_id)

    async def delete(self, job_id: str) -> None:
        return await self._call("delete", job_id)
