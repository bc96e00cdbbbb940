"""The transcriber replica: one recording from source to transcript, on CPU.

The pipeline imports torch, for the speech detector; processes that only deploy this class do not.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from numpy.typing import NDArray
from pydub import AudioSegment
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.job_client import job_client
from deployments.metrics import RayMetrics
from deployments.retry import MAX_REPLICA_FAILURES, call_with_retry
from serve_app.net.ssrf import guarded_session
from serve_app.observability.logs import configure_logging, log_context
from serve_app.schemas.job import Job
from serve_app.schemas.request import DiarizationOptions, JobRequest, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import Transcript, TranscriptStream, Turn, final_transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText


class Transcriber:
    """Fetches, decodes and cuts; sends batches of windows to the model's Whisper replicas; merges.

    `whispers`: the Whisper deployments by their models' ids.
    """

    async def __init__(  # type: ignore[misc]
        self,
        settings: AppSettings,
        whispers: Mapping[str, DeploymentHandle],
        diarizer: DeploymentHandle | None = None,
    ) -> None:
        import torch

        from serve_app.pipeline.transcribe import Pipeline

        configure_logging(settings.logs)
        torch.set_num_threads(1)  # the VAD's steps are too small to share
        self.settings = settings
        self.whispers = whispers
        self.diarizer = diarizer
        self.jobs = job_client(serve.get_replica_context().app_name)
        self.blobs = BlobStore(settings.blob_root)
        session = guarded_session(settings.network)
        self.pipeline = Pipeline(
            settings, self.blobs, session, self._transcribe_batch, self._diarize if diarizer else None, RayMetrics()
        )
        self.runs: dict[str, tuple[int, asyncio.Task[Any]]] = {}

    async def transcribe(
        self, job: Job, stream: bool = False, log_fields: Mapping[str, str] | None = None
    ) -> TranscriptStream:
        """Yield the text deltas of a job if `stream`, then its transcript. `log_fields`: the caller's log context."""
        from serve_app.pipeline.transcribe_job import transcribe_job

        with log_context(**{**(log_fields or {}), "job_id": job.id}), self._as_latest_run(job):
            async with aclosing(transcribe_job(self.pipeline, self.jobs, job, stream)) as items:
                async for item in items:
                    yield item

    async def transcribe_audio(
        self, audio: str | bytes | AudioSegment, options: TranscriptionOptions | None = None
    ) -> Transcript:
        """Return the transcript of a URL, a media file's bytes, or a pydub `AudioSegment`: for callers of the handle.

        No job is recorded.
        """
        from serve_app.diarization.reference_clips import validate_diarization

        options = await asyncio.to_thread(validate_diarization, options or TranscriptionOptions(), self.settings)
        model = self.settings.served_model(options.model).id
        if isinstance(audio, str):
            request = JobRequest(source=UrlSource(url=audio), options=options, model=model)
            return await self._transcribe(request, uuid4().hex)  # not the URL: the id is in log lines
        if isinstance(audio, AudioSegment):
            # Into memory: by default pydub would make a temporary file.
            audio = audio.export(io.BytesIO(), format="wav").getvalue()
        source = await self.blobs.write(_once(audio))
        try:
            return await self._transcribe(JobRequest(source=source, options=options, model=model), source.key)
        finally:
            await self.blobs.delete(source.key)

    async def _transcribe(self, request: JobRequest, job_id: str) -> Transcript:
        return await final_transcript(self.pipeline.transcribe(Job.running(job_id, request)))

    @contextmanager
    def _as_latest_run(self, job: Job) -> Iterator[None]:
        """Cancel an earlier run of the same job, which a job manager that was killed has left behind.

        A run is the task that asks for its first item: only jobs that are not streamed, and so have one item, are run
        again under a higher number.
        """
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

    async def _transcribe_batch(self, model: str, batch: WindowBatch) -> Sequence[WindowText]:
        # Put once, so that a retry sends the same object: Ray pickles the dataclass and stores its samples out of
        # band, and a replica reads them where they lie in the node's shared memory.
        reference, send = ray.put(batch), self.whispers[model].transcribe.remote
        texts: Sequence[WindowText] = await call_with_retry(
            "the Whisper deployment", lambda: send(reference), MAX_REPLICA_FAILURES
        )
        return texts

    async def _diarize(
        self, pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool
    ) -> tuple[Turn, ...]:
        assert self.diarizer is not None
        reference, send = ray.put(pcm), self.diarizer.diarize.remote
        del pcm  # it is large
        turns: tuple[Turn, ...] = await call_with_retry(
            "the diarization deployment", lambda: send(reference, options, interactive), MAX_REPLICA_FAILURES
        )
        return turns


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
