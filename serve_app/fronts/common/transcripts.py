"""Transcripts as HTTP responses, and the bodies of their formats in the OpenAPI document."""

from typing import Any, Literal

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from serve_app.http.openapi.document import OpenApiEntry, response
from serve_app.http.openapi.examples import DIARIZED, TRANSCRIPT
from serve_app.rendering.formats import MEDIA_TYPES, SPEAKERS, Format, render
from serve_app.rendering.subtitles import PLAIN, Layout
from serve_app.schemas.request import Task
from serve_app.schemas.transcript import TokenLogprob, Transcript


class Usage(BaseModel):
    """The usage of a transcription: the recording's length in seconds."""

    type: Literal["duration"]
    seconds: int


class SpokenWord(BaseModel):
    """A word with its times in seconds."""

    word: str
    start: float
    end: float
    speaker: str | None = Field(None, description="With diarization.")


class SpokenSegment(BaseModel):
    """A segment of text with Whisper's statistics of its window."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    speaker: str | None = Field(None, description="With diarization; `overlap` if several people speak at once.")
    overlap: bool | None = None


class PlainText(BaseModel):
    """A transcript with `response_format=json`."""

    text: str
    logprobs: list[TokenLogprob] | None = Field(None, description="With `include[]=logprobs`.")
    usage: Usage
    warnings: list[str] | None = Field(None, description="Such as that the recording is truncated.")


class VerboseText(PlainText):
    """A transcript with `response_format=verbose_json`."""

    task: Task
    language: str = Field(description="Its English name; `unknown` if the recording has no speech.")
    duration: float
    words: list[SpokenWord] | None = Field(None, description="With word timestamps.")
    segments: list[SpokenSegment]


class SpeakerSegment(BaseModel):
    """The text of one speaker."""

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str = Field(description="`A`, `B` and so on, or the name of a known speaker; `unknown`.")


class DiarizedText(BaseModel):
    """A transcript with `response_format=diarized_json`."""

    task: Task
    duration: float
    text: str
    segments: list[SpeakerSegment]
    usage: Usage
    warnings: list[str] | None = None


def transcript_response(transcript: Transcript, form: Format, layout: Layout = PLAIN, name: str = "audio") -> Response:
    """Return a transcript as an HTTP response. Raises InvalidRequest as `render` does."""
    body = render(transcript, form, layout, name)
    if isinstance(body, str):
        return Response(body, media_type=f"{MEDIA_TYPES[form]}; charset=utf-8")
    return JSONResponse(body)


def _transcript_entry() -> OpenApiEntry:
    entry = response(
        "The transcript, in the requested format.",
        render(TRANSCRIPT, "json"),
        render(TRANSCRIPT, "verbose_json"),
        render(DIARIZED, "diarized_json"),
        model=PlainText | VerboseText | DiarizedText,
    )
    content: dict[str, Any] = entry["content"]
    for form, media_type in MEDIA_TYPES.items():
        if media_type != "application/json":
            example = render(DIARIZED if form in SPEAKERS else TRANSCRIPT, form)
            content.setdefault(media_type, {"examples": {}})["examples"][form] = {"value": example}
    return entry


TRANSCRIPT_ENTRY = _transcript_entry()
"""The OpenAPI entry of `transcript_response`."""
