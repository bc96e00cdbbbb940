"""A job as clients see it: in answers and in webhooks."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from serve_app.schemas.job import Job, JobError, JobState, Mode, WebhookState
from serve_app.schemas.request import Priority, TranscriptionOptions, UrlSource


class JobView(BaseModel):
    """A job as clients see it, without the headers of its webhook, which may be secret."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    mode: Mode
    priority: Priority
    progress: float = Field(description="0 to 1.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int = Field(description="Runs begun; one that is lost with a process is followed by another.")
    url: str | None = Field(description="The audio's URL, when it came from one.")
    model: str | None = Field(description="Id of the model it is done by; null: another version stored the job.")
    options: TranscriptionOptions
    error: JobError | None
    timings: dict[str, float] = Field(description="Seconds per stage.")
    webhook: WebhookState | None = Field(description="Null without a webhook, or before the job has ended.")
    transcript_url: str = Field(description="Where the text is once the job has succeeded.")


def to_view(job: Job) -> JobView:
    """Return a job as clients see it."""
    source = job.request.source
    return JobView(
        **job.model_dump(include=set(JobView.model_fields)),
        status=job.state,
        priority=job.request.priority,
        url=source.url if isinstance(source, UrlSource) else None,
        model=job.request.model,
        options=job.request.options.redacted,
        transcript_url=f"/v1/jobs/{job.id}/transcript",
    )
