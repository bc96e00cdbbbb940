"""Requests and responses of the native API."""

from typing import Annotated, Literal, Self

from fastapi import Header
from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from serve_app.fronts.common.job_id import JobId
from serve_app.jobs.view import JobView
from serve_app.rendering.formats import Format
from serve_app.rendering.subtitles import Layout
from serve_app.schemas.job import KEY_CHARACTERS, MAX_PAGE, MOST_EVENTS, DeliveryView, JobState, WebhookState
from serve_app.schemas.request import (
    DiarizationOptions,
    Priority,
    StrictModel,
    TranscriptionOptions,
    VadOptions,
    Webhook,
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_CHARACTERS,
        description="The same key and request again return the same job; another request is refused.",
    ),
]

LastEventId = Annotated[
    int,
    Header(
        ge=0,
        le=MOST_EVENTS,
        alias="Last-Event-ID",
        description="The number of the last event received: the stream begins after it.",
    ),
]


class JobBody(TranscriptionOptions):
    """A job as JSON: exactly one of `url`, `upload_id` and `audio`, an optional webhook, and the options."""

    url: str | None = Field(None, description="http(s) URL of the audio.")
    upload_id: str | None = Field(
        None, description="The id of an upload made by `POST /v1/uploads`, whose file has been put."
    )
    audio: str | None = Field(None, description="Base64 of the audio, or a data URL.")
    webhook: Webhook | None = None
    priority: Priority = Field("normal", description="Jobs of a higher priority run first.")
    id: JobId = None

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if [self.url, self.upload_id, self.audio].count(None) != 2:
            raise ValueError("exactly one of url, upload_id and audio (or a multipart body with file) is required")
        return self


class JobForm(TranscriptionOptions):
    """A job as multipart fields beside `file`; `webhook`, `vad` and `diarization` are JSON."""

    vad: Json[VadOptions] | None = None
    diarization: Json[DiarizationOptions] | None = None
    webhook: Json[Webhook] | None = None
    priority: Priority = Field("normal", description="Jobs of a higher priority run first.")
    id: JobId = None


class Deleted(BaseModel):
    """A deleted job."""

    id: str
    object: Literal["job.deleted"] = "job.deleted"
    deleted: Literal[True] = True


class JobsQuery(StrictModel):
    """The query parameters of a job list."""

    status: JobState | None = Field(None, description="Only jobs in this state.")
    webhook: WebhookState | None = Field(
        None,
        description="Only jobs whose final webhook is in this state; `failed`: not delivered after all attempts, to be "
        "sent again by `POST /v1/jobs/{job_id}/deliveries`.",
    )
    limit: int = Field(20, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the previous page.")


class TranscriptQuery(Layout):
    """The query parameters of a transcript."""

    format: Format = "json"


class JobList(BaseModel):
    """A page of jobs, newest first; `next_cursor` is null on the last page."""

    object: Literal["list"] = "list"
    data: list[JobView]
    next_cursor: str | None


class DeliveryList(BaseModel):
    """The webhook deliveries of a job, oldest first."""

    object: Literal["list"] = "list"
    data: tuple[DeliveryView, ...]


class Redelivery(StrictModel):
    """The webhook deliveries to send again."""

    model_config = ConfigDict(json_schema_extra={"example": {"id": "msg_2mXZ"}})

    id: str | None = Field(
        None, description="A delivery's id; null: every delivery of the job that is delivered or failed."
    )


class StoredView(BaseModel):
    """A finished upload."""

    id: str
    object: Literal["upload"] = "upload"
    sha256: str = Field(description="SHA-256 of the file's bytes, in hex.")
