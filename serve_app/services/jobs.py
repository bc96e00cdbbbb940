"""The service as fronts see it: transcriptions, jobs and uploads on behalf of one caller."""

import logging
import time
from collections.abc import AsyncIterator
from uuid import uuid4

from serve_app.errors import UploadNotFound
from serve_app.schemas.job import DeliveryView, Job, JobEvent, JobPage, JobState, WebhookState
from serve_app.schemas.request import BlobSource, JobRequest
from serve_app.schemas.transcript import Transcript, TranscriptStream
from serve_app.services.transcription import Service
from serve_app.settings import AppSettings
from serve_app.storage.signed_uploads import UploadToken

logger = logging.getLogger(__name__)

LONG_POLL_S = 20.0
"""Maximum time of one call to the job manager that waits for events of a job, in seconds."""


class JobService:
    """The service as one caller may use it. `owner` identifies the caller; empty if the service has no API keys.

    Every operation on jobs passes the owner on to the job manager, whose database queries decide on access.
    """

    def __init__(self, service: Service, owner: str) -> None:
        self._service = service
        self._jobs = service.jobs
        self._owner = owner

    @property
    def settings(self) -> AppSettings:
        return self._service.settings

    async def ready(self) -> bool:
        """Return whether every part of the service is ready."""
        return await self._service.ready()

    def transcribe(
        self,
        request: JobRequest,
        job_id: str | None = None,
        stream: bool = False,
        body: AsyncIterator[bytes] | None = None,
    ) -> TranscriptStream:
        """See `Service.transcribe`. `body`: the audio of a request with a `BodySource`."""
        return self._service.transcribe(request, self._owner, job_id, stream, body)

    async def submit(
        self,
        request: JobRequest,
        job_id: str | None = None,
        idempotency_key: str | None = None,
        body: AsyncIterator[bytes] | None = None,
    ) -> Job:
        """Validate a request, store the `body` of one with a `BodySource`, and queue the job.

        The job is in the database when this returns. See `JobOperations.submit`.
        """
        if body is not None and job_id is None and idempotency_key is None:
            # Otherwise the job may exist already, and a full queue does not matter.
            await self._jobs.check_queue()
        # The id is chosen here, so that a repeated call to the job manager does not queue a second job.
        job_id = job_id or uuid4().hex
        try:
            async with self._service.accept(request, body) as accepted:
                job = await self._jobs.submit(accepted, job_id, owner=self._owner, idempotency_key=idempotency_key)
                logger.info("the job is %s", job.state, extra={"job_id": job.id})
                return job
        except UploadNotFound:
            # Perhaps the upload is that of the same job, submitted before.
            request = await self._service.validate(request)
            duplicate = await self._jobs.find_duplicate(
                request, job_id, owner=self._owner, idempotency_key=idempotency_key
            )
            if duplicate is None:
                raise
            return duplicate

    async def wait(self, job: Job, wait_s: float) -> Job:
        """Return a job once it has ended, or after `wait_s`, at most `limits.request_timeout_s`. Raises NotFound."""
        deadline = time.monotonic() + min(wait_s, self.settings.limits.request_timeout_s)
        seen = 0
        while not job.state.terminal and (left := deadline - time.monotonic()) > 0:
            events = await self.events(job.id, seen, min(left, LONG_POLL_S))
            seen = max((event.number for event in events), default=seen)
            job = await self.get(job.id)
        return job

    async def outcome(self, job: Job) -> Transcript:
        """Return the transcript of a job that has ended. Raises its error, and Conflict if it was cancelled."""
        if job.error is not None:
            raise job.error.to_exception()
        return await self.result(job.id)

    async def get(self, job_id: str) -> Job:
        return await self._jobs.get(job_id, owner=self._owner)

    async def list(
        self, state: JobState | None, limit: int, cursor: str | None, webhook: WebhookState | None = None
    ) -> JobPage:
        return await self._jobs.list(state, limit, cursor, webhook, owner=self._owner)

    async def list_active(self) -> tuple[str, ...]:
        return await self._jobs.list_active(owner=self._owner)

    async def result(self, job_id: str) -> Transcript:
        return await self._jobs.result(job_id, owner=self._owner)

    async def events(self, job_id: str, after: int, wait_s: float) -> tuple[JobEvent, ...]:
        return await self._jobs.events(job_id, after, wait_s, owner=self._owner)

    async def deliveries(self, job_id: str) -> tuple[DeliveryView, ...]:
        return await self._jobs.deliveries(job_id, owner=self._owner)

    async def redeliver(self, job_id: str, delivery_id: str | None) -> tuple[DeliveryView, ...]:
        return await self._jobs.redeliver(job_id, delivery_id, owner=self._owner)

    async def cancel(self, job_id: str) -> Job:
        return await self._jobs.cancel(job_id, owner=self._owner)

    async def delete(self, job_id: str) -> None:
        return await self._jobs.delete(job_id, owner=self._owner)

    def create_upload(self) -> UploadToken:
        """Create a token for a new upload."""
        return self._service.uploads.create_token()

    def is_valid_upload(self, token: UploadToken) -> bool:
        """Return whether a token's signature is valid; the token may have expired."""
        return self._service.uploads.is_valid(token)

    async def put_upload(self, token: UploadToken, chunks: AsyncIterator[bytes]) -> BlobSource:
        """Store an uploaded recording. See `Uploads.put`."""
        return await self._service.uploads.put(token, chunks)
