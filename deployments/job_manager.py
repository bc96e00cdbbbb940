"""The detached actor that runs the job manager. Only its own process imports the database libraries."""

import ray
from ray import serve

from deployments.metrics import RayMetrics
from deployments.retry import transcriber_client
from serve_app.fronts.registry import webhook_payloads
from serve_app.jobs.db.engine import Database
from serve_app.jobs.manager import JobManager
from serve_app.net.ssrf import guarded_session
from serve_app.observability.logs import configure_logging
from serve_app.schemas.transcript import final_transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore


class JobManagerActor(JobManager):
    """The job manager of one application, in a process that Ray restarts."""

    async def __init__(self, settings: AppSettings, app_name: str, fingerprint: str) -> None:  # type: ignore[misc]
        configure_logging(settings.logs)
        # The manager counts each replica that dies as a lost run of the job, and retries it itself.
        transcribe = transcriber_client(serve.get_deployment_handle("Transcriber", app_name), max_failures=1)
        super().__init__(
            settings,
            await Database.open(settings.database_url),
            BlobStore(settings.blob_root),
            lambda job: final_transcript(transcribe(job)),
            guarded_session(settings.network),
            # The same after Ray has restarted this actor, which resumes its jobs at once.
            lease_owner=ray.get_runtime_context().get_actor_id(),
            webhook_payloads=webhook_payloads(),
            metrics=RayMetrics(),
        )
        self._fingerprint = fingerprint
        await self.start()

    async def fingerprint(self) -> str:
        """Return the fingerprint of what this actor was created from."""
        return self._fingerprint
