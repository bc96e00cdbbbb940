"""The changes of a job after its submission: progress and its end, and their publication."""

import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime

from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.notifier import JobNotifier
from serve_app.jobs.webhooks.sender import WebhookSender
from serve_app.observability.metrics import JOBS_ENDED, Metrics
from serve_app.schemas.job import PROGRESS_S, Job, JobError, JobState
from serve_app.schemas.request import BlobSource
from serve_app.schemas.transcript import Transcript
from serve_app.storage.blobs import BlobStore

logger = logging.getLogger(__name__)


class JobLifecycle:
    """Ends jobs, publishes their changes to subscribers and webhooks, and deletes the audio of ended jobs."""

    def __init__(
        self, runs: RunStore, blobs: BlobStore, notifier: JobNotifier, webhooks: WebhookSender, metrics: Metrics
    ) -> None:
        self._runs = runs
        self._blobs = blobs
        self._notifier = notifier
        self._webhooks = webhooks
        self._metrics = metrics
        self._progress_stored_at: dict[str, float] = {}  # monotonic time, by job id

    def publish(self, job: Job | None) -> None:
        """Publish a committed change of a job to its subscribers and webhook; null: nothing changed."""
        if job is not None:
            self._notifier.notify(job.id)
            if job.request.webhook is not None:
                self._webhooks.wake()

    async def update_progress(self, job_id: str, attempt: int, fraction: float) -> None:
        """Store a run's progress, unless the previous update is less than `PROGRESS_S` ago."""
        now = time.monotonic()
        if now - self._progress_stored_at.get(job_id, -PROGRESS_S) < PROGRESS_S:
            return
        self._progress_stored_at[job_id] = now
        job = await self._runs.update_progress(job_id, attempt, fraction, datetime.now(UTC))
        if job is None:  # the run has ended, and the job's entry may already have been removed
            self._progress_stored_at.pop(job_id, None)
        self.publish(job)

    async def end_run(
        self, job: Job, state: JobState, error: JobError | None = None, transcript: Transcript | None = None
    ) -> None:
        """End a job with the outcome of its run. Does nothing if the run is no longer the job's current one."""
        await self._end(job.id, state, attempt=job.attempts, error=error, transcript=transcript)

    async def cancel(self, job_id: str, expected: Collection[JobState]) -> None:
        """Cancel a job in any of the expected states, whatever its run."""
        await self._end(job_id, JobState.CANCELLED, expected=expected)

    async def delete_upload(self, job: Job) -> None:
        """Delete the audio that came with a job."""
        if isinstance(job.request.source, BlobSource):
            try:
                await self._blobs.delete(job.request.source.key)
            except Exception:
                logger.exception(
                    "could not delete the upload of the job; retrying when the job is purged", extra={"job_id": job.id}
                )

    async def _end(
        self,
        job_id: str,
        state: JobState,
        *,
        attempt: int | None = None,
        expected: Collection[JobState] = (JobState.RUNNING,),
        error: JobError | None = None,
        transcript: Transcript | None = None,
    ) -> None:
        job = await self._runs.end(
            job_id,
            state,
            datetime.now(UTC),
            attempt=attempt,
            expected=expected,
            error=error,
            transcript=transcript,
        )
        if job is not None:
            logger.info("the job has ended: %s, runs: %d", job.state, job.attempts, extra={"job_id": job.id})
            self._metrics.increment(JOBS_ENDED, mode=job.mode, state=job.state)
            self._progress_stored_at.pop(job.id, None)
            self.publish(job)
            await self.delete_upload(job)
