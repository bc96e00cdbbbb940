"""Requests and responses of Tiyaro's API."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from serve_app.fronts.tiyaro.errors import Error
from serve_app.fronts.tiyaro.whisper_input import WhisperInput
from serve_app.rendering.formats import as_whisper
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import StrictModel
from serve_app.schemas.transcript import Transcript
from serve_app.settings import Tier

Status = Literal["accepted", "pending", "processing", "success", "failed", "cancelled"]

_STATUSES: dict[JobState, Status] = {
    JobState.QUEUED: "pending",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "success",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


class AsyncBody(StrictModel):
    """A recording, and Whisper's options."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"URL": "https://example.com/talk.mp3", "input": {"language": "en"}}}
    )

    input: WhisperInput = WhisperInput()
    url: str = Field(
        alias="URL", description="An upload URL to which a recording was put, or any http(s) URL of a recording."
    )


class AsyncQuery(StrictModel):
    """The query parameters of a submission."""

    service_tier: Tier = Field("cpuflex", alias="serviceTier")


class UploadQuery(StrictModel):
    """The query parameters of an upload."""

    extension: str | None = Field(
        None, pattern=r"^[A-Za-z0-9]{1,10}$", description="The file name's extension; the format is read from the file."
    )


class UploadUrl(BaseModel):
    """The URL to upload a recording to."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    upload_url: dict[Literal["PUT"], str] = Field(
        description="PUT the file's bytes there, with no header and no API key."
    )


class Inference(BaseModel):
    """A submitted recording: its status, and its result or error."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    id: str = Field(description="The job's id too.")
    model: str = Field(description="The model that is served here for the path.")
    status: Status
    accepted_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    result: dict[str, Any] | None = Field(description="`text`, `segments` and `language`, as Whisper has it.")
    error: Error | None = Field(description="The reason of a failure.")

    @classmethod
    def of(cls, job: Job, model: str, transcript: Transcript | None = None) -> "Inference":
        """Return a job in this shape. `model`: of jobs that name none."""
        return cls(
            id=job.id,
            model=job.request.model or model,
            status=_STATUSES[job.state],
            accepted_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.finished_at,
            result=as_whisper(transcript) if transcript else None,
            error=Error.of(job.error) if job.error else None,
        )


class Submitted(Inference):
    """A submitted recording, and the URL to poll."""

    urls: dict[Literal["GET"], str]


class SubmitResponse(BaseModel):
    """The response to a submission."""

    response: Submitted
