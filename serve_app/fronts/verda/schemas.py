"""Requests and responses of Verda's API."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.schemas.request import JobRequest, TranscriptionOptions, UrlSource, Webhook


class InferenceStatus(BaseModel):
    """The status of an inference."""

    Id: str
    Error: str | None = Field(description="The reason of a failure; null if it has not failed.")
    Status: int | str = Field(
        description="0 `Initialized`, 1 `Queue`, 2 `Inference`, 3 `Completed`; a name with `verda.status_names`."
    )


class AcceptedInference(BaseModel):
    """The URLs of an inference; requests to both need the header `X-Inference-Id: Id`."""

    Id: str
    StatusPath: str
    ResultPath: str


class Result(BaseModel):
    """The text of a recording."""

    result: str


class WebhookAccepted(BaseModel):
    """The confirmation that the text will be sent to the webhook."""

    status: Literal["accepted"]


class WebhookMissing(BaseModel):
    """The error that no webhook is configured."""

    status: Literal["error"]
    details: str


class GenerateBody(TranscriptionOptions):
    """A transcription request."""

    model_config = ConfigDict(json_schema_extra={"example": {"url": "https://example.com/talk.mp3"}})

    url: str = Field(min_length=1, description="http(s) URL of the audio.")

    @field_validator("timestamps", "logprobs")
    @classmethod
    def _check_plain_text(cls, value: object) -> object:
        if value in ("word", True):
            raise ValueError("this API returns plain text: request these from /v1/jobs")
        return value

    def to_job_request(self, webhook: Webhook | None = None) -> JobRequest:
        """Return the job request."""
        options = TranscriptionOptions.from_body(self)
        return JobRequest(source=UrlSource(url=self.url), options=options, webhook=webhook, webhook_format="verda")
