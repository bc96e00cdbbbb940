"""The operations that fronts call: transcribe now, or submit a job."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol
from uuid import uuid4

from serve_app.diarization.reference_clips import validate_diarization
from serve_app.errors import RequestTimeout, Unavailable, UploadNotFound
from serve_app.net.ssrf import check_url
from serve_app.schemas.job import DeliveryView, Job, JobError, JobEvent, JobPage, JobState, WebhookState
from serve_app.schemas.request import BlobSource, JobRequest, UploadSource, UrlSource
from serve_app.schemas.transcript import Transcript, TranscriptStream
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.storage.signed_uploads import Uploads
from serve_app.whisper.model.card import ModelCard

LONG_POLL_S = 20.0
"""The job manager is asked for news of a job so long at a time."""

logger = logging.getLogger(__name__)


class Jobs(Protocol):
    """The job manager, here or in its actor."""

    async def submit(
        self, request: JobRequest, job_id: str, owner: str = "", idempotency_key: str | None = None
    ) -> Job: ...
    async def known(self, request: JobRequest, job_id: str, owner: str, idempotency_key: str | None) -> Job | None: ...
    async def announce(self, request: JobRequest, job_id: str, owner: str = "") -> Job: ...
    async def finish(self, job_id: str, transcript: Transcript) -> None: ...
    async def fail(self, job_id: str, error: JobError) -> None: ...
    async def abandon(self, job_id: str) -> None: ...
    async def get(self, job_id: str) -> Job: ...
    async def result(self, job_id: str) -> Transcript: ...
    async def list(
        self, state: JobState | None, limit: int, cursor: str | None, webhook: WebhookState | None = None
    ) -> JobPage: ...
    async def active(self) -> tuple[str, ...]: ...
    async def events(self, job_id: str, after: int, wait_s: float) -> tuple[JobEvent, ...]: ...
    async def deliveries(self, job_id: str) -> tuple[DeliveryView, ...]: ...
    async def redeliver(self, job_id: str, delivery_id: str | None) -> tuple[DeliveryView, ...]: ...
    async def cancel(self, job_id: str) -> Job: ...
    async def delete(self, job_id: str) -> None: ...


class Transcribe(Protocol):
    """The transcriber, in this process or in its deployment. With `stream`, text deltas precede the transcript."""

    def __call__(self, job: Job, stream: bool = False) -> TranscriptStream: ...


class Service:
    """The one place every front calls. `cards`: of the served models, by their ids."""

    def __init__(
        self,
        settings: AppSettings,
        cards: Mapping[str, ModelCard],
        blobs: BlobStore,
        uploads: Uploads,
        jobs: Jobs,
        transcribe: Transcribe,
        ready: Callable[[], Awaitable[bool]],
    ) -> None:
        self.settings = settings
        self.cards = cards
        self.blobs = blobs
        self.uploads = uploads
        self.jobs = jobs
        self.ready = ready
        self._transcribe = transcribe

    async def submit(
        self, request: JobRequest, job_id: str | None = None, owner: str = "", idempotency_key: str | None = None
    ) -> Job:
        """Accept a job: when this returns, it is in the database. See `JobManager.submit`."""
        # An id from the beginning, so that a call that has to be made again makes no second job.
        job_id = job_id or uuid4().hex
        try:
            async with self._claim_audio(request) as owned:
                return await self.jobs.submit(owned, job_id, owner, idempotency_key)
        except UploadNotFound:
            known = await self.jobs.known(await self._validate(request), job_id, owner, idempotency_key)
            if known is None:
                raise
            return known  # which has the upload: its submit is sent again

    async def wait(self, job: Job, wait_s: float) -> Job:
        """A job once it has ended, or as it is after so long, `limits.request_timeout_s` at most. Raises NotFound."""
        until = time.monotonic() + min(wait_s, self.settings.limits.request_timeout_s)
        seen = 0
        while not job.state.terminal and (left := until - time.monotonic()) > 0:
            events = await self.jobs.events(job.id, seen, min(left, LONG_POLL_S))
            seen = max((event.number for event in events), default=seen)
            job = await self.jobs.get(job.id)
        return job

    async def outcome(self, job: Job) -> Transcript:
        """Return the transcript of a job that has ended. Raises its error, and Conflict if it was cancelled."""
        if job.error is not None:
            raise job.error.raised()
        return await self.jobs.result(job.id)

    async def transcribe(
        self, request: JobRequest, owner: str = "", job_id: str | None = None, stream: bool = False
    ) -> TranscriptStream:
        """Transcribe now: yield text deltas if `stream`, then the transcript, once the job's end is recorded.

        `job_id`: if there is such a job already, of the same request, its transcript. Raises Conflict unless it has
        succeeded, IdempotencyConflict for another request, and RequestTimeout after `limits.request_timeout_s`.
        """
        async with self._claim_audio(request) as request:
            if job_id is not None and await self.jobs.known(request, job_id, owner, None):
                yield await self.jobs.result(job_id)
                return
            announced = asyncio.ensure_future(self.jobs.announce(request, job_id or uuid4().hex, owner))
            try:
                job = await asyncio.shield(announced)
            except asyncio.CancelledError:
                await asyncio.shield(self._abandon(announced))
                raise
        limit = self.settings.limits.request_timeout_s
        transcript: Transcript | None = None
        try:
            async with aclosing(_with_timeout(self._transcribe(job, stream), limit)) as items:
                async for item in items:
                    if isinstance(item, Transcript):
                        transcript = item
                    else:
                        yield item
            assert transcript is not None, "a stream ends with the transcript"
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.shield(self._abandon(announced))
            raise
        except TimeoutError:
            late = RequestTimeout(f"not finished within {limit:g} s: submit long recordings to /v1/jobs")
            await self._record(self.jobs.fail(job.id, JobError.of(late)))
            raise late from None
        except Exception as error:
            await self._record(self.jobs.fail(job.id, JobError.of(error)))
            raise
        await self._record(self.jobs.finish(job.id, transcript))
        yield transcript

    async def _record(self, end: Awaitable[None]) -> None:
        """Have a synchronous job's end listed; a list that is away costs no client its answer."""
        try:
            await end
        except Exception:
            logger.exception("the end of a synchronous job could not be recorded")

    async def _abandon(self, announced: asyncio.Future[Job]) -> None:
        await self.jobs.abandon((await announced).id)

    @asynccontextmanager
    async def _claim_audio(self, request: JobRequest) -> AsyncIterator[JobRequest]:
        """Check a request and give it its audio.

        If it, or the job manager, refuses it, what came in its body is dropped; what was brought before waits again.
        """
        upload = None
        try:
            request = await self._validate(request)
            if isinstance(request.source, UploadSource):
                upload = await self.uploads.claim(request.source.id)
                source = upload.source.model_copy(update={"upload": upload.id})
                request = request.model_copy(update={"source": source})
            yield request
        except Exception as error:
            if upload is not None:
                await self.uploads.give_back(upload)
            # Where the job manager is away, the job may be in its database all the same: if not, the sweep finds it.
            elif isinstance(request.source, BlobSource) and not isinstance(error, Unavailable):
                await self.blobs.delete(request.source.key)
            raise

    async def _validate(self, request: JobRequest) -> JobRequest:
        """The request with its model, and the clips of known speakers made small. Raises what can be known at once."""
        model = self.settings.served_model(request.options.model)
        self.cards[model.id].validate_options(request.options)
        if isinstance(request.source, UrlSource):
            check_url(request.source.url, "url")
        options = await asyncio.to_thread(validate_diarization, request.options, self.settings)
        return request.model_copy(update={"model": model.id, "options": options})


async def _with_timeout(stream: TranscriptStream, limit_s: float) -> TranscriptStream:
    """Yield the items of a stream; raise TimeoutError if it has not ended in time.

    Each item has a timeout of its own, because each may be awaited in another task.
    """
    deadline = asyncio.get_running_loop().time() + limit_s
    async with aclosing(stream):
        while True:
            async with asyncio.timeout_at(deadline):
                item = await anext(stream, None)
            if item is None:
                return
            yield item
