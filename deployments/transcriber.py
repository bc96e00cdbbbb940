"""The transcriber replica: one recording from source to transcript, on CPU."""

import asyncio

import aiohttp
import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.calls import call
from deployments.job_manager import RemoteJobs
from serve_app.audio.windows import Block
from serve_app.guard import guarded_session
from serve_app.jobs.blobs import BlobStore
from serve_app.jobs.models import Job
from serve_app.settings import AppSettings
from serve_app.transcript import Transcript
from serve_app.transcription import transcribe
from serve_app.whisper.text import WindowText


class Transcriber:
    """Fetches, decodes and cuts; sends blocks of windows to the Whisper replicas; merges."""

    def __init__(self, settings: AppSettings, whisper: DeploymentHandle) -> None:
        torch.set_num_threads(1)  # the VAD's steps are too small to share
        self.settings = settings
        self.whisper = whisper
        self.jobs = RemoteJobs(serve.get_replica_context().app_name)
        self.blobs = BlobStore(settings.data_dir / "blobs")
        self.session: aiohttp.ClientSession | None = None
        self.reports: set[asyncio.Task[None]] = set()

    async def transcribe(self, job: Job) -> Transcript:
        """The transcript of one job."""
        if self.session is None:
            self.session = guarded_session(self.settings.network)

        async def recognise(block: Block) -> list[WindowText]:
            pcm = ray.put(block.pcm)
            spans = [(window.start - block.start, window.end - block.start) for window in block.windows]
            texts: list[WindowText] = await call(
                "the Whisper deployment",
                lambda: self.whisper.transcribe.remote(pcm, spans, job.request.options, job.id),
            )
            return texts

        def report(progress: float) -> None:
            task = asyncio.create_task(self.jobs.progress(job.id, progress))
            self.reports.add(task)
            task.add_done_callback(self.reports.discard)

        return await transcribe(job.request, self.settings, self.blobs, self.session, recognise, report)
