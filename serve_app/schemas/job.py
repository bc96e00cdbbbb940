"""Jobs: states, errors, events, webhook deliveries and pages."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field

from serve_app.errors import ServiceError
from serve_app.schemas.request import JobRequest, StrictModel

Mode = Literal["async", "sync"]
EventType = Literal["queued", "started", "progress", "completed", "failed", "cancelled"]
WebhookState = Literal["pending", "delivered", "failed"]

MAX_PAGE = 100
"""Maximum number of jobs on one page of a list."""

ID_CHARACTERS = 128
"""Maximum length of a job id."""

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""The pattern of a job id."""

KEY_CHARACTERS = 255
"""Maximum length of an idempotency key."""

PROGRESS_S = 1.0
"""Minimum interval between stored progress updates of one job, in seconds."""

MOST_EVENTS = 2**31 - 1
"""Highest event number that the database can hold."""


class JobState(StrEnum):
    """The state of a job: `queued → running → succeeded | failed | cancelled`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Return whether this state is final."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class JobError(StrictModel):
    """The error of a failed job, as clients see it. `status` is the HTTP status of the same error."""

    message: str
    param: str | None = None
    code: str | None = None
    type: str
    status: int

    @classmethod
    def from_exception(cls, error: BaseException) -> Self:
        """Return the client-readable form of an exception; anything but a `ServiceError` is an internal error."""
        if not isinstance(error, ServiceError):
            error = ServiceError("internal error", None, "internal_error")
        return cls(message=error.message, param=error.param, code=error.code, type=error.type, status=error.status)

    def to_exception(self) -> ServiceError:
        """Return the error as an exception to raise."""
        error = ServiceError(self.message, self.param, self.code)
        error.status, error.type = self.status, self.type
        return error


class Job(StrictModel):
    """A request and the state of its processing.

    `mode`: `async` jobs wait in the queue; the client of a `sync` job waits for it. `owner`: for fair queueing and
    idempotency keys; empty if the service has no API keys. Times are UTC. `attempts`: runs started; each run
    invalidates later reports of earlier ones. `failed_runs`: runs that raised an error. `lost_runs`: runs lost with
    their process since the last saved block. `progress`: 0 to 1. `timings`: seconds spent in each stage. `webhook`:
    delivery state of the final event; null until the job ends, and always null without a webhook.
    """

    id: str
    state: JobState
    mode: Mode
    owner: str = ""
    idempotency_key: str | None = None
    request: JobRequest
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    failed_runs: int = 0
    lost_runs: int = 0
    progress: float = 0.0
    error: JobError | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    webhook: WebhookState | None = None

    @classmethod
    def running(cls, id: str, request: JobRequest, mode: Mode = "sync") -> Self:
        """Return a running job that is not stored anywhere."""
        return cls(id=id, state=JobState.RUNNING, mode=mode, request=request, created_at=datetime.now(UTC))

    @property
    def is_interactive(self) -> bool:
        """Return whether a client waits for it or gave it a high priority; its windows are decoded before others."""
        return self.mode == "sync" or self.request.priority == "high"


class JobEvent(StrictModel):
    """An event of a job, numbered from 1, with the job's state at that time."""

    number: int
    type: EventType
    at: datetime
    status: JobState
    progress: float
    attempts: int
    error: JobError | None = None


class DeliveryAttempt(StrictModel):
    """One request to a webhook's receiver: the `status` of its response, or the `error` if there was none."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None


class DeliveryView(StrictModel):
    """A webhook delivery: its `webhook-id`, event, state, and every attempt so far.

    `failed`: no more attempts are made unless the delivery is requested again. `due_at`: time of the next attempt.
    """

    id: str
    event: EventType
    state: WebhookState
    created_at: datetime
    due_at: datetime | None
    tries: tuple[DeliveryAttempt, ...]


class JobPage(StrictModel):
    """A page of jobs, newest first. `next_cursor` fetches the next page; null on the last."""

    data: tuple[Job, ...]
    next_cursor: str | None
