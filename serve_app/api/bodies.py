"""The bodies that `formats` renders, as the OpenAPI document describes them."""

from typing import Literal

from pydantic import BaseModel, Field

from serve_app.options import Task
from serve_app.whisper.text import TokenLogprob


class Usage(BaseModel):
    """What was heard, in seconds."""

    type: Literal["duration"]
    seconds: int


class SpokenWord(BaseModel):
    """A word and its time, in seconds."""

    word: str
    start: float
    end: float


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


class Chunk(BaseModel):
    """A piece of text, its first and last second."""

    timestamp: tuple[float, float]
    text: str


class ChunkedText(BaseModel):
    """A transcript as transformers' speech recognition pipeline returns it."""

    text: str
    chunks: list[Chunk]
    warnings: list[str] | None = None
