"""The database's tables. A change of a table needs a migration in `migrations/`.

A column's `key` is its name in Python where that differs from its name in the database.
"""

from datetime import UTC, datetime

from pydantic import BaseModel, ValidationError
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

from serve_app.schemas.job import ID_CHARACTERS, KEY_CHARACTERS, JobError, JobState
from serve_app.schemas.request import JobRequest, UrlSource
from serve_app.schemas.transcript import Transcript

HOST_CHARACTERS = 255
"""Maximum length of a receiver's host name; the rest is cut off."""

ACTIVE = (JobState.QUEUED, JobState.RUNNING)
"""The states of a job that has not ended."""


class Id(TypeDecorator[str]):
    """A job id. Clients may ask for any text, but PostgreSQL rejects NUL: it becomes U+FFFD, which is in no id."""

    impl = String(ID_CHARACTERS)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


class Utc(TypeDecorator[datetime]):
    """An aware time, stored as UTC even by a database without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


UNREADABLE = JobRequest(source=UrlSource(url=""))
"""Replaces a stored request that another version of the service wrote and this version cannot read."""

CLIP_APART = "-"
"""Replaces the clips of known speakers in a stored request: jobs are read often, and clips are large."""

_UNREADABLE_ERROR = JobError(
    message="the error was stored by another version of the service and cannot be read",
    code="unreadable",
    type="server_error",
    status=500,
)


class Stored(TypeDecorator[BaseModel]):
    """A pydantic model as JSON. Text that cannot be read becomes `unreadable`, or raises ValidationError without it."""

    impl = Text
    cache_ok = True

    def __init__(self, model: type[BaseModel], unreadable: BaseModel | None = None) -> None:
        super().__init__()
        self.model = model
        self.unreadable = unreadable

    def process_bind_param(self, value: BaseModel | None, dialect: Dialect) -> str | None:
        return None if value is None else value.model_dump_json()

    def process_result_value(self, value: str | None, dialect: Dialect) -> BaseModel | None:
        try:
            return None if value is None else self.model.model_validate_json(value)
        except ValidationError:
            if self.unreadable is None:
                raise
            return self.unreadable


metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("mode", String(8), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("idempotency_key", String(KEY_CHARACTERS)),
    Column("fingerprint", String(64), nullable=False),  # JobRequest.fingerprint
    Column("priority", Integer, nullable=False),
    Column("request", Stored(JobRequest, UNREADABLE), nullable=False),  # clips are replaced by CLIP_APART
    Column("clips", JSON(none_as_null=True)),  # of known speakers: only a run reads them
    Column("created_at", Utc, nullable=False),
    Column("started_at", Utc),
    Column("finished_at", Utc),
    Column("due_at", Utc, nullable=False),  # a queued job is not run earlier
    Column("holder", String(128), key="lease_owner"),  # the manager that runs the job, under a lease until
    Column("leased_until", Utc),
    Column("attempts", Integer, nullable=False),
    Column("failures", Integer, nullable=False, key="failed_runs"),
    Column("losses", Integer, nullable=False, key="lost_runs"),
    Column("events", Integer, nullable=False),  # their count
    Column("progress", Float, nullable=False),
    Column("error", Stored(JobError, _UNREADABLE_ERROR)),
    Column("timings", JSON, nullable=False),
    Column("transcript", Stored(Transcript)),
    Column("webhook", String(16)),
    Index("jobs_by_age", "created_at", "id"),
    Index("jobs_by_state", "state", "created_at", "id"),
    Index("jobs_by_key", "owner", "idempotency_key", unique=True),
    Index("jobs_due", "state", "priority", "owner", "due_at"),
    Index("jobs_finished", "finished_at"),
)

blocks = Table(
    "blocks",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", Text, nullable=False),  # JSON of a CachedBlock
)

events = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("type", String(16), nullable=False),
    Column("at", Utc, nullable=False),
    Column("status", String(16), nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Stored(JobError, _UNREADABLE_ERROR)),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(ID_CHARACTERS + 32), primary_key=True),  # the webhook-id of every attempt
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("event", String(16), nullable=False),
    Column("host", String(HOST_CHARACTERS), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),  # attempts of the schedule, which a redelivery restarts
    Column("created_at", Utc, nullable=False),
    Column("due_at", Utc),  # a pending delivery is not sent earlier
    Index("deliveries_of_job", "job_id", "created_at"),
    Index("deliveries_due", "state", "due_at"),
)

delivery_attempts = Table(
    "tries",
    metadata,
    Column("delivery_id", ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Utc, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("status", Integer),  # null: no response
    Column("error", Text),
)
