"""The forms of OpenAI's audio API, and their conversion to options."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import from_json

from serve_app.errors import InvalidRequest, ServiceError
from serve_app.http.error_format import as_invalid_request
from serve_app.rendering.formats import SPEAKERS, SUBTITLES, SpeechFormat
from serve_app.schemas.request import (
    MAX_KNOWN_SPEAKERS,
    MAX_PROMPT_CHARS,
    Milliseconds,
    Probability,
    Timestamps,
    TranscriptionOptions,
    VadOptions,
)

_STREAMED: tuple[SpeechFormat, ...] = ("json", "text", "diarized_json")
_CLIP = re.compile(r"diarization\.known_speakers\.(\d+)\.(name|reference)")
_MEMBER = "chunking_strategy["
_SEPARATOR = ", "


class ServerVad(BaseModel):
    """Voice activity detection; absent fields default to the service's settings."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    threshold: Probability | None = Field(None, description="Speech begins at this probability.")
    prefix_padding_ms: Milliseconds | None = Field(None, description="Padding before and after speech.")
    silence_duration_ms: Milliseconds | None = Field(None, description="Silence that ends a speech segment.")

    def overrides(self) -> VadOptions:
        """Return these settings as options."""
        return VadOptions(
            threshold=self.threshold, pad_ms=self.prefix_padding_ms, min_silence_ms=self.silence_duration_ms
        )


def _parse_strategy(value: object) -> object:
    """Parse `auto` or an object, which may be JSON text."""
    if value == "auto":
        return None
    if isinstance(value, str):
        with suppress(ValueError):
            value = from_json(value)
    if not isinstance(value, dict):
        raise ValueError("must be 'auto' or an object with type 'server_vad'")
    return value


ChunkingStrategy = Annotated[
    ServerVad | None,
    BeforeValidator(_parse_strategy),
    WithJsonSchema({"anyOf": [{"const": "auto", "type": "string"}, ServerVad.model_json_schema()], "default": "auto"}),
]


def _check_length(words: list[str]) -> list[str]:
    if len(_SEPARATOR.join(words)) > MAX_PROMPT_CHARS:
        raise ValueError(f"at most {MAX_PROMPT_CHARS} characters are allowed in total")
    return words


Keywords = Annotated[list[str], AfterValidator(_check_length)]


@contextmanager
def with_openai_param_names() -> Iterator[None]:
    """Rename the fields in errors about speakers to the fields of these forms."""
    try:
        yield
    except ServiceError as error:
        param = error.param or ""
        if clip := _CLIP.fullmatch(param):
            number, what = clip.groups()
            own, named = f"known_speaker_{what}s[]", f"known_speaker_{what}s[{number}]"
        elif param == "diarization.known_speakers":
            own = named = "known_speaker_names[]"
        elif param == "diarization":
            own = named = "response_format"
        else:
            raise
        renamed = copy(error)
        renamed.message, renamed.param = error.message.replace(param, named, 1), own
        raise renamed from None


class SpeechForm(BaseModel):
    """The fields of both paths; other fields are rejected."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"file": "(a recording)", "model": "whisper-1", "response_format": "srt"}},
    )

    file: UploadFile = Field(description="Any container that FFmpeg reads, detected by content, not by name.")
    model: str = Field(description="A model id or alias of `GET /v1/models`.")
    prompt: str | None = Field(None, description="Text that every window is conditioned on.")
    response_format: SpeechFormat = "json"
    temperature: float = Field(
        0, description="0 to 1. 0: the most likely text, with temperature fallback where it fails Whisper's thresholds."
    )
    include: list[Literal["logprobs"]] = Field([], alias="include[]", description="Needs `response_format=json`.")
    chunking_strategy: ChunkingStrategy = Field(
        None,
        description="Voice activity detection: `auto`, or `{type: server_vad, threshold, prefix_padding_ms, "
        "silence_duration_ms}`, as JSON or as fields `chunking_strategy[type]` and so on.",
    )
    stream: bool = Field(
        False,
        description="Stream the text of each window as a server-sent event; needs `response_format` `json`, `text` or "
        "`diarized_json`, whose segments are sent at the end.",
    )

    @model_validator(mode="before")
    @classmethod
    def _join_strategy_members(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Join the members of `chunking_strategy`, which OpenAI's client sends as a field each, into an object."""
        members = {name[len(_MEMBER) : -1]: name for name in fields if name.startswith(_MEMBER) and name.endswith("]")}
        if not members or "chunking_strategy" in fields:
            return fields
        others = {name: value for name, value in fields.items() if name not in members.values()}
        return others | {"chunking_strategy": {member: fields[name] for member, name in members.items()}}

    @property
    def _timestamps(self) -> Timestamps:
        """The timestamps that the response format needs: subtitles are split by word timestamps."""
        return "word" if self.response_format in SUBTITLES else "segment"

    def _options(self, **own: Any) -> TranscriptionOptions:
        """Return the options of both paths, with a path's `own` options. Raises InvalidRequest."""
        if self.include and self.response_format != "json":
            raise InvalidRequest("include[] needs response_format 'json'", "include[]")
        if self.stream and self.response_format not in _STREAMED:
            raise InvalidRequest(f"stream needs response_format {' or '.join(map(repr, _STREAMED))}", "stream")
        try:
            return TranscriptionOptions(
                model=self.model,
                prompt=self.prompt,
                temperature=self.temperature,
                logprobs="logprobs" in self.include,
                vad=self.chunking_strategy.overrides() if self.chunking_strategy else None,
                diarization=self._diarization() if self.response_format in SPEAKERS else None,
                **own,
            )
        except ValidationError as error:
            raise as_invalid_request(error) from None

    def _diarization(self) -> dict[str, Any]:
        return {}


class TranslationForm(SpeechForm):
    """The fields of a translation into English."""

    def options(self) -> TranscriptionOptions:
        """Return the options. Raises InvalidRequest."""
        return self._options(task="translate", timestamps=self._timestamps)


class TranscriptionForm(SpeechForm):
    """The fields of a transcription."""

    language: str | None = Field(None, description="ISO-639-1 code or English name; absent: detected.")
    keywords: Keywords = Field([], alias="keywords[]", description="Words that are likely in the recording.")
    timestamp_granularities: list[Literal["segment", "word"]] = Field(
        [], alias="timestamp_granularities[]", description="Needs `response_format=verbose_json`."
    )

    known_speaker_names: list[str] = Field(
        [],
        alias="known_speaker_names[]",
        max_length=MAX_KNOWN_SPEAKERS,
        description="Names of known speakers; needs `response_format=diarized_json`.",
    )
    known_speaker_references: list[str] = Field(
        [],
        alias="known_speaker_references[]",
        max_length=MAX_KNOWN_SPEAKERS,
        description="A clip of each known speaker's voice, 2 to 10 seconds, as a data URL.",
    )

    def options(self) -> TranscriptionOptions:
        """Return the options. Raises InvalidRequest."""
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise InvalidRequest(
                "timestamp_granularities[] needs response_format 'verbose_json'", "timestamp_granularities[]"
            )
        names, references = self.known_speaker_names, self.known_speaker_references
        if (names or references) and self.response_format not in SPEAKERS:
            field = "known_speaker_names[]" if names else "known_speaker_references[]"
            raise InvalidRequest(f"{field} needs response_format 'diarized_json'", field)
        if len(names) != len(references):
            message = (
                f"known_speaker_references[]: {len(references)} given for {len(names)} known_speaker_names[]; each "
                "name needs one reference"
            )
            raise InvalidRequest(message, "known_speaker_references[]")
        with with_openai_param_names():
            return self._options(
                language=self.language,
                hotwords=_SEPARATOR.join(self.keywords) or None,
                timestamps="word" if "word" in self.timestamp_granularities else self._timestamps,
            )

    def _diarization(self) -> dict[str, Any]:
        known = zip(self.known_speaker_names, self.known_speaker_references, strict=True)
        return {"known_speakers": [{"name": name, "reference": reference} for name, reference in known]}
