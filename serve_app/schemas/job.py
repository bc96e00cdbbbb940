"""Jobs: their states, errors and events, and pages of jobs."""

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
"""Most jobs in one page of the list."""


ID_CHARACTERS = 128
"""Longest id of a job that a client may choose."""

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""The pattern of a job id."""

KEY_CHARACTERS = 255
"""Longest idempotency key."""


PROGRESS_S = 1.0
"""A job's progress is written down this often at most."""


MOST_EVENTS = 2**31 - 1
"""Highest number of an event that the database can hold."""


class JobState(StrEnum):
    """The state of a job: `queued → running → succeeded | failed | cancelled`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether this state is final."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class JobError(StrictModel):
    """Why a job failed, as a client is told. `status` is the HTTP status of the same error."""

    message: str
    param: str | None = None
    code: str | None = None
    type: str
    status: int

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """A `ServiceError` as it is; of anything else nothing but that it happened."""
        if not isinstance(error, ServiceError):
            error = ServiceError("internal error", None, "internal_error")
        return cls(message=error.message, param=error.param, code=error.code, type=error.type, status=error.status)

    def raised(self) -> ServiceError:
        """The same, to be raised again."""
        error = ServiceError(self.message, self.param, self.code)
        error.status, error.type = self.status, self.type
        return error


class Job(StrictModel):
    """One request and what has become of it.

    `mode`: `async` jobs wait in the queue, `sync` ones run while their client waits. `owner`: whose
    it is, for fairness and idempotency keys. Times are UTC. `attempts`: runs begun; each fences off the ones
    before, whose reports come too late. `failures`: runs that failed by themselves. `losses`: runs that were lost
    with a process since the last block that was kept. `progress`: 0 to 1. `timings`: seconds spent in each stage.
    `webhook`: how the news of the end fares; null until the job ends, and for ever if nobody asked for it.
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
    failures: int = 0
    losses: int = 0
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
        """Whether a client waits for it, or asked for a high priority: its windows are decoded before others."""
        return self.mode == "sync" or self.request.priority == "high"


class JobEvent(StrictModel):
    """Something that happened to a job, the `number`-th from 1, and how the job stood then."""

    number: int
    type: EventType
    at: datetime
    status: JobState
    progress: float
    attempts: int
    error: JobError | None = None


class DeliveryAttempt(StrictModel):
    """One call of a webhook's receiver: its answer's `status`, or the `error` for which there was none."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None


class DeliveryView(StrictModel):
    """One webhook: its `webhook-id`, what it tells of, how it fares, and every try so far.

    `failed`: given up, until it is asked for again. `due_at`: of the next try.
    """

    id: str
    event: EventType
    state: WebhookState
    created_at: datetime
    due_at: datetime | None
    tries: tuple[DeliveryAttempt, ...]


class JobPage(StrictModel):
    """Jobs, newest first. `next_cursor` fetches the page after, null on the last."""

    data: tuple[Job, ...]
    next_cursor: str | None
