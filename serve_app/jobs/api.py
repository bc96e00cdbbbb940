"""The operations of the job manager, in this process or in another."""

import inspect
from typing import Protocol

from serve_app.schemas.job import DeliveryView, Job, JobError, JobEvent, JobPage, JobState, WebhookState
from serve_app.schemas.request import JobRequest
from serve_app.schemas.transcript import Transcript


class JobOperations(Protocol):
    """Everything that other parts of the service ask of the job manager.

    Operations for clients take the caller's `owner`; the rest are for the processes that run jobs.
    """

    # For clients

    async def submit(self, request: JobRequest, job_id: str, *, owner: str, idempotency_key: str | None = None) -> Job:
        """Queue a job; it is committed to the database when this returns.

        A second submit with the same `job_id`, or the same `owner` and `idempotency_key`, returns the first job if
        the requests are equal. Raises IdempotencyConflict if they differ, InvalidRequest for an invalid webhook, and
        Overloaded when the queue is full.
        """
        ...

    async def check_queue(self) -> None:
        """Raise Overloaded if the queue is full: called before a recording is stored; `submit` decides."""
        ...

    async def find_duplicate(
        self, request: JobRequest, job_id: str, *, owner: str, idempotency_key: str | None = None
    ) -> Job | None:
        """Return the job that `submit` would return for these arguments, if it exists. Raises IdempotencyConflict."""
        ...

    async def get(self, job_id: str, *, owner: str) -> Job:
        """Return a job. Raises NotFound."""
        ...

    async def list(
        self, state: JobState | None, limit: int, cursor: str | None, webhook: WebhookState | None = None, *, owner: str
    ) -> JobPage:
        """Return a page of jobs, newest first. Raises InvalidRequest naming the invalid parameter."""
        ...

    async def list_active(self, *, owner: str) -> tuple[str, ...]:
        """Return the ids of all jobs that have not ended, oldest first."""
        ...

    async def result(self, job_id: str, *, owner: str) -> Transcript:
        """Return a job's transcript. Raises NotFound, and Conflict unless the job has succeeded."""
        ...

    async def events(self, job_id: str, after: int, wait_s: float, *, owner: str) -> tuple[JobEvent, ...]:
        """Return the events of a job after the given number, waiting up to `wait_s` for the first. Raises NotFound."""
        ...

    async def deliveries(self, job_id: str, *, owner: str) -> tuple[DeliveryView, ...]:
        """Return a job's webhook deliveries with every attempt. Raises NotFound."""
        ...

    async def redeliver(self, job_id: str, delivery_id: str | None, *, owner: str) -> tuple[DeliveryView, ...]:
        """Send a finished delivery again, or all of the job's finished deliveries if `delivery_id` is null.

        Raises NotFound, and Conflict if there is no finished delivery.
        """
        ...

    async def cancel(self, job_id: str, *, owner: str) -> Job:
        """Cancel a job; a job that has ended is returned unchanged.

        Raises NotFound, and Conflict for a synchronous job, which only its own client can cancel.
        """
        ...

    async def delete(self, job_id: str, *, owner: str) -> None:
        """Delete a job that has ended. Raises NotFound, and Conflict if the job has not ended."""
        ...

    # For the process that runs a synchronous job

    async def register_sync(self, request: JobRequest, job_id: str, *, owner: str) -> Job:
        """Store a running job whose client waits; its runner then calls `complete`, `fail` or `cancel_sync`.

        Raises InvalidRequest for a webhook that cannot be called, and IdempotencyConflict as `submit` does.
        """
        ...

    async def complete(self, job_id: str, transcript: Transcript) -> None:
        """Store the transcript of a synchronous job. Does nothing if the job has ended."""
        ...

    async def fail(self, job_id: str, error: JobError) -> None:
        """Mark a synchronous job as failed. Does nothing if the job has ended."""
        ...

    async def cancel_sync(self, job_id: str) -> None:
        """Mark a synchronous job as cancelled by its client. Does nothing if the job has ended."""
        ...

    # For a run, which is identified by its job and attempt

    async def report_progress(self, job_id: str, attempt: int, fraction: float) -> None:
        """Store the progress of a run, 0 to 1; it never decreases and is stored at most once in `PROGRESS_S`."""
        ...

    async def save_block(self, job_id: str, attempt: int, number: int, content: str) -> None:
        """Save a finished block for later runs of the job. Raises Conflict if this run has ended."""
        ...

    async def load_blocks(self, job_id: str) -> dict[int, str]:
        """Return the blocks saved by earlier runs of a job, by number."""
        ...


OPERATIONS = tuple(name for name, member in vars(JobOperations).items() if inspect.iscoroutinefunction(member))
"""The names of all operations, from which clients of a manager in another process are made."""
