"""Requests and responses of OctoAI's endpoints."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.http.openapi.examples import URL
from serve_app.rendering.formats import as_whisper
from serve_app.schemas.request import TranscriptionOptions
from serve_app.schemas.transcript import Transcript


class InferBody(TranscriptionOptions):
    """A recording, and the options."""

    model_config = ConfigDict(json_schema_extra={"example": {"url": URL, "language": "en", "task": "transcribe"}})

    audio: str | None = Field(
        None,
        description="Base64 of the audio, or a data URL; or the SDK's `Audio` as its `model_dump()` writes it, an "
        "object whose `data` is base64 or an object with a `url`.",
    )
    url: str | None = Field(None, description="http(s) URL of the audio.")

    @model_validator(mode="before")
    @classmethod
    def _flatten_sdk_audio(cls, body: Any) -> Any:
        match body:
            case {"audio": {"data": {"url": url, **none}, **more}, **others} if not (none or more or "url" in others):
                return others | {"url": url}
            case {"audio": {"data": data, **more}, **others} if not more:
                return others | {"audio": data}
        return body

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.audio is None) is (self.url is None):
            raise ValueError("exactly one of audio and url is required")
        return self


class Prediction(BaseModel):
    """A transcript, and the time it took."""

    prediction_time_ms: float
    response: dict[str, Any] = Field(description="`text`, `segments` and `language`, as Whisper's `transcribe` has it.")
    transcription: str = Field(description="The text alone.")

    @classmethod
    def of(cls, transcript: Transcript) -> Self:
        """Return a transcript in this shape."""
        return cls(
            prediction_time_ms=round(1000 * sum(transcript.timings.values()), 3),
            response=as_whisper(transcript),
            transcription=transcript.text,
        )


class Future(BaseModel):
    """The URL to poll for the response."""

    response_id: str = Field(description="The job's id too.")
    poll_url: str


class Progress(BaseModel):
    """The status of a request; `response_url` returns the response when it is `completed`, the error if it `failed`."""

    response_id: str
    status: Literal["pending", "running", "completed", "failed"]
    response_url: str
    detail: str | None = Field(None, description="The reason of a failure.")
