"""The application behind all fronts: validates requests, stores their audio, and transcribes synchronous ones."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol
from uuid import uuid4

from serve_app.diarization.reference_clips import validate_diarization
from serve_app.errors import RequestTimeout, Unavailable
from serve_app.jobs.api import JobOperations
from serve_app.jobs.webhooks.validation import check_webhook
from serve_app.net.ssrf import check_url
from serve_app.schemas.job import Job, JobError
from serve_app.schemas.request import BlobSource, BodySource, JobRequest, UploadSource, UrlSource
from serve_app.schemas.transcript import Transcript, TranscriptStream
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.storage.signed_uploads import Uploads
from serve_app.whisper.model.card import ModelCard

logger = logging.getLogger(__name__)


class Transcribe(Protocol):
    """The transcriber, in this process or in its deployment. With `stream`, text deltas precede the transcript."""

    def __call__(self, job: Job, stream: bool = False) -> TranscriptStream: ...


class Service:
    """The parts of the application. Fronts reach them through a `JobService`. `cards`: of the served models, by id."""

    def __init__(
        self,
        settings: AppSettings,
        cards: Mapping[str, ModelCard],
        blobs: BlobStore,
        uploads: Uploads,
        jobs: JobOperations,
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

    async def transcribe(
        self,
        request: JobRequest,
        owner: str = "",
        job_id: str | None = None,
        stream: bool = False,
        body: AsyncIterator[bytes] | None = None,
    ) -> TranscriptStream:
        """Transcribe now: yield text deltas if `stream`, then the transcript, once the job's end is recorded.

        `job_id`: if there is such a job already, of the same request, its transcript. Raises Conflict unless it has
        succeeded, IdempotencyConflict for another request, and RequestTimeout after `limits.request_timeout_s`.
        """
        async with self.accept(request, body) as request:
            if job_id is not None and await self.jobs.find_duplicate(request, job_id, owner=owner):
                yield await self.jobs.result(job_id, owner=owner)
                return
            registered = asyncio.ensure_future(self.jobs.register_sync(request, job_id or uuid4().hex, owner=owner))
            try:
                job = await asyncio.shield(registered)
            except asyncio.CancelledError:
                await asyncio.shield(self._cancel_sync(registered))
                raise
        logger.info("transcribing for a client that waits", extra={"job_id": job.id})
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
            await asyncio.shield(self._cancel_sync(registered))
            raise
        except TimeoutError:
            late = RequestTimeout(f"not finished within {limit:g} s: submit long recordings to /v1/jobs")
            await self._record(job, self.jobs.fail(job.id, JobError.from_exception(late)))
            raise late from None
        except Exception as error:
            await self._record(job, self.jobs.fail(job.id, JobError.from_exception(error)))
            raise
        await self._record(job, self.jobs.complete(job.id, transcript))
        yield transcript

    async def _record(self, job: Job, end: Awaitable[None]) -> None:
        """Record the end of a synchronous job; an unavailable job manager does not cost the client its answer."""
        try:
            await end
        except Exception:
            logger.exception("the end of the synchronous job could not be recorded", extra={"job_id": job.id})

    async def _cancel_sync(self, registered: asyncio.Future[Job]) -> None:
        await self.jobs.cancel_sync((await registered).id)

    @asynccontextmanager
    async def accept(self, request: JobRequest, body: AsyncIterator[bytes] | None = None) -> AsyncIterator[JobRequest]:
        """Validate a request, then store its `body` or claim its upload, and yield it with its own blob.

        An error in the context means that there is no job: the body is deleted, the upload made available again.
        """
        upload = None
        try:
            request = await self.validate(request)
            if isinstance(request.source, UploadSource):
                upload = await self.uploads.claim(request.source.id)
                source = upload.source.model_copy(update={"upload": upload.id})
                request = request.model_copy(update={"source": source})
            elif isinstance(request.source, BodySource):
                assert body is not None
                request = request.model_copy(update={"source": await self.blobs.write(body)})
            yield request
        except Exception as error:
            if upload is not None:
                await self.uploads.release(upload)
            # If the job manager is unavailable, it may have stored the job nevertheless: the sweep deletes the blob.
            elif isinstance(request.source, BlobSource) and not isinstance(error, Unavailable):
                await self.blobs.delete(request.source.key)
            raise

    async def validate(self, request: JobRequest) -> JobRequest:
        """Check everything that needs no audio, and return the request with its model's id and normalized clips."""
        model = self.settings.served_model(request.options.model)
        self.cards[model.id].validate_options(request.options)
        if isinstance(request.source, UrlSource):
            check_url(request.source.url, "url")
        if request.webhook is not None:
            check_webhook(request.webhook)
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
