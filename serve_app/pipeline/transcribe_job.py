"""Transcribe a job, and report on it to the job manager."""

from collections.abc import Mapping
from contextlib import aclosing, closing, suppress
from typing import Protocol

from serve_app.errors import ServiceError, Unavailable
from serve_app.pipeline.progress import ProgressReporter
from serve_app.pipeline.transcribe import Pipeline
from serve_app.schemas.job import PROGRESS_S, Job
from serve_app.schemas.transcript import TranscriptStream


class JobReporter(Protocol):
    """The operations of the job manager that a run of a job uses."""

    async def report_progress(self, job_id: str, attempt: int, fraction: float) -> None: ...
    async def save_block(self, job_id: str, attempt: int, number: int, content: str) -> None: ...
    async def load_blocks(self, job_id: str) -> Mapping[int, str]: ...


class JobBlockCache:
    """A `BlockCache` that saves a job's finished blocks with the job."""

    def __init__(self, jobs: JobReporter, job: Job) -> None:
        self._jobs = jobs
        self._job = job

    async def load_blocks(self) -> Mapping[int, str]:
        return await self._jobs.load_blocks(self._job.id) if self._job.attempts > 1 else {}

    async def save_block(self, number: int, content: str) -> None:
        with suppress(Unavailable):  # without the job manager the block is not saved, and the run goes on
            await self._jobs.save_block(self._job.id, self._job.attempts, number, content)


async def transcribe_job(pipeline: Pipeline, jobs: JobReporter, job: Job, stream: bool = False) -> TranscriptStream:
    """Yield the text deltas of a job if `stream`, then its transcript; see `Pipeline.transcribe`.

    Its progress is reported to the job manager, and the finished blocks of an asynchronous job are saved there.
    """

    async def send(progress: float) -> None:
        with suppress(ServiceError):  # the manager is unavailable, or the job has ended
            await jobs.report_progress(job.id, job.attempts, progress)

    block_cache = JobBlockCache(jobs, job) if job.mode == "async" else None
    # A stream reports every window, and the manager would write only one report a second.
    with closing(ProgressReporter(send, PROGRESS_S)) as report:
        async with aclosing(pipeline.transcribe(job, stream, report, block_cache)) as items:
            async for item in items:
                yield item
