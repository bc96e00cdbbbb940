"""Requests and responses of the Insanely-Fast-Whisper API."""

from typing import Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from serve_app.fronts.common.job_id import JobId
from serve_app.http.error_format import as_invalid_request
from serve_app.schemas.request import (
    DiarizationOptions,
    JobRequest,
    StrictModel,
    Task,
    TranscriptionOptions,
    UrlSource,
    Webhook,
)


class TaskWebhook(StrictModel):
    """The webhook that the output or the error is posted to."""

    url: str
    header: dict[str, str] = Field(default_factory=dict, description="Sent with every delivery.")

    def to_webhook(self) -> Webhook:
        """Return the webhook of the job."""
        # Clients of the original name the content type, which the service sets itself.
        headers = {name: value for name, value in self.header.items() if not _is_json(name, value)}
        return Webhook(url=self.url, headers=headers)


def _is_json(name: str, value: str) -> bool:
    return name.lower() == "content-type" and value.partition(";")[0].strip().lower() == "application/json"


class TaskBody(StrictModel):
    """A transcription request."""

    url: str = Field(description="http(s) URL of the audio.")
    task: Task = Field("transcribe", description="`translate` writes English.")
    language: str | None = Field(
        None, description="ISO-639-1 code or English name; `None` or null: detected in every window."
    )
    batch_size: int = Field(64, ge=1, description="Maximum number of this task's windows decoded at a time.")
    timestamp: Literal["chunk", "word"] = Field("chunk", description="`word`: a chunk for every word.")
    diarise_audio: bool = Field(False, description="Diarize the recording: `speakers` in the output.")
    webhook: TaskWebhook | None = None
    is_async: bool = Field(False, description="Answer at once, and POST the output to the webhook.")
    managed_task_id: JobId = None

    @model_validator(mode="after")
    def _check_webhook(self) -> Self:
        if self.is_async and self.webhook is None:
            raise ValueError("Webhook is required for async tasks")
        return self

    def to_job_request(self) -> JobRequest:
        """Return the job request. Raises InvalidRequest."""
        try:
            options = TranscriptionOptions(
                task=self.task,
                language=None if self.language == "None" else self.language,
                batch_size=self.batch_size,
                timestamps="word" if self.timestamp == "word" else "segment",
                diarization=DiarizationOptions() if self.diarise_audio else None,
            )
        except ValidationError as error:
            raise as_invalid_request(error) from None
        webhook = None if self.webhook is None else self.webhook.to_webhook()
        return JobRequest(
            source=UrlSource(url=self.url), options=options, webhook=webhook, webhook_format="insanely_fast"
        )


class Chunk(BaseModel):
    """A piece of text with its start and end in seconds."""

    timestamp: tuple[float, float]
    text: str


class SpeakersChunk(Chunk):
    """A piece of text with its speaker."""

    speaker: str | None


class ChunkedText(BaseModel):
    """A transcript as transformers' speech recognition pipeline returns it."""

    text: str
    chunks: list[Chunk]
    speakers: list[SpeakersChunk] | None = Field(None, description="With `diarise_audio`.")
    warnings: list[str] | None = None


class TaskStatus(BaseModel):
    """The status of a task."""

    status: Literal["processing", "completed", "error", "cancelled"]
    output: ChunkedText | None = Field(None, description="The transcript of a completed task.")
    error: str | None = Field(None, description="The reason of a failure.")


class TaskResponse(TaskStatus):
    """The status of a submitted task, with its id."""

    task_id: str
    detail: str | None = Field(None, description="Of a task in the background.")


class Tasks(BaseModel):
    """The ids of tasks."""

    tasks: tuple[str, ...]
