"""The HTTP ingress: the fronts, in front of the deployments."""

import asyncio
import logging
import tempfile

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from deployments.job_client import ensure_job_manager, job_client
from deployments.metrics import RayMetrics
from deployments.retry import transcriber_client
from serve_app.asgi import create_app
from serve_app.models.resolve import resolve_checkpoint
from serve_app.observability.logs import configure_logging
from serve_app.services.transcription import Service
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.storage.signed_uploads import Uploads, signing_key
from serve_app.whisper.model.card import ModelCard

logger = logging.getLogger(__name__)


class Ingress:
    """Serves the fronts: it stores uploads, and calls the transcriber or the job manager."""

    async def __init__(self, settings: AppSettings, handle: DeploymentHandle) -> None:  # type: ignore[misc]
        configure_logging(settings.logs)
        # The form parser writes uploads to temporary files: in the data folder too.
        settings.spool_dir.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(settings.spool_dir)
        self.app_name = serve.get_replica_context().app_name
        await ensure_job_manager(self.app_name, settings)
        blobs = BlobStore(settings.blob_root, settings.limits.max_upload_bytes)
        self.service = Service(
            settings,
            {
                model.id: ModelCard.load(resolve_checkpoint(model.checkpoint, settings.models_dir), model.id)
                for model in settings.served_models
            },
            blobs,
            Uploads(blobs, signing_key(settings), settings.uploads.expires_s),
            job_client(self.app_name),
            transcriber_client(handle),
            self.ready,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:  # Serve calls it
        return create_app(self.service, metrics=RayMetrics())

    async def ready(self) -> bool:
        """Return whether every deployment of this application is healthy; false if Serve does not answer."""
        try:
            status = await asyncio.to_thread(serve.status)
            return status.applications[self.app_name].status == ApplicationStatus.RUNNING
        except Exception:
            logger.warning("could not get the status of the application from Serve", exc_info=True)
            return False
