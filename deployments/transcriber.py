"""The transcriber replica: one recording from source to transcript, on CPU.

The speech detector brings torch; the processes that only deploy this one are spared it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray
from pydub import AudioSegment
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.job_client import job_client
from deployments.retry import MAX_REPLICA_FAILURES, call_with_retry
from serve_app.errors import NotFound, ServiceError, Unavailable
from serve_app.jobs.api import JobOperations
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.progress import Reports
from serve_app.pipeline.streaming import stream_results
from serve_app.schemas.job import PROGRESS_S, Job
from serve_app.schemas.request import DiarizationOptions, JobRequest, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import OnDelta, TextDelta, Transcript, Turn
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.window_text import WindowText

if TYPE_CHECKING:
    from serve_app.audio.windows import Block
    from serve_app.pipeline.transcribe import BlockCache, Report


class JobBlockCache:
    """A `BlockCache` that saves a job's finished blocks with the job."""

    def __init__(self, jobs: JobOperations, job: Job) -> None:
        self._jobs = jobs
        self._job = job

    async def load_blocks(self) -> Mapping[int, str]:
        return await self._jobs.load_blocks(self._job.id) if self._job.attempts > 1 else {}

    async def save_block(self, number: int, content: str) -> None:
        with suppress(Unavailable):  # a retry transcribes the block again
            await self._jobs.save_block(self._job.id, self._job.attempts, number, content)


class Transcriber:
    """Fetches, decodes and cuts; sends blocks of windows to the model's Whisper replicas; merges.

    `whispers`: the Whisper deployments by their models' ids.
    """

    async def __init__(  # type: ignore[misc]
        self,
        settings: AppSettings,
        whispers: Mapping[str, DeploymentHandle],
        diarizer: DeploymentHandle | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(1)  # the VAD's steps are too small to share
        self.settings = settings
        self.whispers = whispers
        self.diarizer = diarizer
        self.jobs = job_client(serve.get_replica_context().app_name)
        self.blobs = BlobStore(settings.blob_root)
        self.session = guarded_session(settings.network)
        self.runs: dict[str, tuple[int, asyncio.Task[Any]]] = {}

    async def transcribe(self, job: Job, tell: OnDelta | None = None) -> Transcript:
        """The transcript of one job; `tell` hears the text as it becomes known."""

        async def send(progress: float) -> None:
            with suppress(ServiceError):  # the manager is away, or the job has ended
                await self.jobs.report_progress(job.id, job.attempts, progress)

        # A text that is streamed has a report for every window, of which the manager would write down one a second.
        report = Reports(send, PROGRESS_S)
        waited_for = job.mode == "sync"
        with self._last_run(job), closing(report):
            return await self._transcribe(
                job.request,
                job.id,
                report,
                interactive=waited_for or job.request.priority == "high",
                keeper=None if waited_for else JobBlockCache(self.jobs, job),
                tell=tell,
            )

    @contextmanager
    def _last_run(self, job: Job) -> Iterator[None]:
        """Stop an earlier run of a job: a job manager that was killed has left it behind."""
        earlier, this = self.runs.get(job.id), asyncio.current_task()
        if earlier is not None and earlier[0] < job.attempts:
            earlier[1].cancel()
        assert this is not None
        self.runs[job.id] = job.attempts, this
        try:
            yield
        finally:
            if self.runs.get(job.id) == (job.attempts, this):
                del self.runs[job.id]

    async def transcribe_telling(self, job: Job) -> AsyncIterator[TextDelta | Transcript]:
        """The text of one job, piece by piece, and then its transcript."""
        async for item in stream_results(partial(self.transcribe, job)):
            yield item

    async def transcribe_audio(
        self, audio: str | bytes | AudioSegment, options: TranscriptionOptions | None = None
    ) -> Transcript:
        """The transcript of a URL, a media file's bytes, or a pydub `AudioSegment`: for callers of the handle.

        No job is recorded.
        """
        from serve_app.diarization.reference_clips import validate_diarization

        options = await asyncio.to_thread(validate_diarization, options or TranscriptionOptions(), self.settings)
        model = self.settings.served_model(options.model).id
        if isinstance(audio, str):
            request = JobRequest(source=UrlSource(url=audio), options=options, model=model)
            return await self._transcribe(request, audio)
        if isinstance(audio, AudioSegment):
            # Into memory: on its own, pydub would make a temporary file.
            audio = audio.export(io.BytesIO(), format="wav").getvalue()
        source = await self.blobs.write(_once(audio))
        try:
            return await self._transcribe(JobRequest(source=source, options=options, model=model), source.key)
        finally:
            await self.blobs.delete(source.key)

    async def _transcribe(
        self,
        request: JobRequest,
        job_id: str,
        report: Report = lambda progress: None,
        interactive: bool = True,
        keeper: BlockCache | None = None,
        tell: OnDelta | None = None,
    ) -> Transcript:
        from serve_app.pipeline.transcribe import transcribe

        try:
            model = self.settings.served_model(request.model)
        except NotFound as error:
            # It was accepted by an ingress of other settings: these or those are just being replaced.
            raise Unavailable(error.message, error.param, error.code) from None
        whisper = self.whispers[model.id]

        async def recognise(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
            pcm = ray.put(block.pcm)
            texts: Sequence[WindowText] = await call_with_retry(
                "the Whisper deployment",
                lambda: whisper.transcribe.remote(
                    pcm, block.pcm_windows, request.options.for_decoding, job_id, interactive, previous
                ),
                MAX_REPLICA_FAILURES,
            )
            return texts

        async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions) -> tuple[Turn, ...]:
            assert self.diarizer is not None, "the service refuses diarization when it is off"
            send, sound = self.diarizer.diarize.remote, ray.put(pcm)
            del pcm  # it is large
            turns: tuple[Turn, ...] = await call_with_retry(
                "the diarization deployment", lambda: send(sound, options, interactive), MAX_REPLICA_FAILURES
            )
            return turns

        return await transcribe(
            request, model, self.settings, self.blobs, self.session, recognise, report, keeper, tell, diarize
        )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
