"""The bodies that `formats` renders, as the OpenAPI document describes them."""

from typing import Literal

from pydantic import BaseModel, Field

from serve_app.schemas.request import Task
from serve_app.schemas.transcript import TokenLogprob


class Usage(BaseModel):
    """A text with its times in seconds."""

    type: Literal["duration"]
    seconds: int


class SpokenWord(BaseModel):
    """A word and its time, in seconds."""

    word: str
    start: float
    end: float
    speaker: str | None = Field(None, description="With diarization.")


class SpokenSegment(BaseModel):
    """A stretch of text, and Whisper's figures of its window."""

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
    speaker: str | None = Field(None, description="With diarization; beside `overlap` where several speak at once.")
    overlap: bool | None = None


class PlainText(BaseModel):
    """A transcript with `response_format=json`."""

    text: str
    logprobs: list[TokenLogprob] | None = Field(None, description="With `include[]=logprobs`.")
    usage: Usage
    warnings: list[str] | None = Field(None, description="Such as that the recording broke off.")


class VerboseText(PlainText):
    """A transcript with `response_format=verbose_json`."""

    task: Task
    language: str = Field(description="In English; `unknown` where nothing was said.")
    duration: float
    words: list[SpokenWord] | None = Field(None, description="With words' times.")
    segments: list[SpokenSegment]


class SaidBy(BaseModel):
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
    segments: list[SaidBy]
    usage: Usage
    warnings: list[str] | None = None


class Chunk(BaseModel):
    """A piece of text, its first and last second."""

    timestamp: tuple[float, float]
    text: str


class SpeakersChunk(Chunk):
    """The same, and who said it."""

    speaker: str | None


class ChunkedText(BaseModel):
    """A transcript as transformers' speech recognition pipeline returns it."""

    text: str
    chunks: list[Chunk]
    speakers: list[SpeakersChunk] | None = Field(None, description="With `diarise_audio`.")
    warnings: list[str] | None = None
