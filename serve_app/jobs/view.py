"""Jobs as clients see them, in responses and in webhooks."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from serve_app.schemas.job import Job, JobError, JobState, Mode, WebhookState
from serve_app.schemas.request import Priority, TranscriptionOptions, UrlSource


class JobView(BaseModel):
    """A job as clients see it. The headers of its webhook are left out: they may be secret."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    mode: Mode
    priority: Priority
    progress: float = Field(description="0 to 1.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int = Field(description="Runs started, including runs that were lost with their process.")
    url: str | None = Field(description="URL of the audio; null if it was uploaded.")
    model: str | None = Field(description="Id of the model; null if another version of the service stored the job.")
    options: TranscriptionOptions
    error: JobError | None
    timings: dict[str, float] = Field(description="Seconds per stage.")
    webhook: WebhookState | None = Field(
        description="Delivery state of the final event; null without a webhook, or before the job has ended."
    )
    transcript_url: str = Field(description="Path of the transcript, once the job has succeeded.")


def to_view(job: Job) -> JobView:
    """Return the client view of a job."""
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
