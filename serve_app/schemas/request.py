"""Transcription requests: every front parses its requests into `JobRequest`."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from serve_app.schemas.languages import language_code

Task = Literal["transcribe", "translate"]
Timestamps = Literal["none", "segment", "word"]
WebhookEvent = Literal["started", "progress", "completed", "failed", "cancelled"]
Priority = Literal["low", "normal", "high"]

MODEL_DEFAULT_TOKENS = -1
"""In `suppress_tokens`: stands for the list in the model's generation config."""

MAX_PROMPT_CHARS = 10_000
"""Maximum length of a prompt in characters. Only its last tokens are used, which are far fewer."""

MAX_HYPOTHESES = 16
"""Maximum number of beams or samples per window: each takes a row of the engine."""

HypothesisCount = Annotated[int, Field(ge=1, le=MAX_HYPOTHESES)]

MAX_SPEAKERS = 100
"""Maximum number of speakers that can be requested for a recording."""

MAX_KNOWN_SPEAKERS = 4
"""Maximum number of known speakers per recording, as in OpenAI's API. Their clips are stored with the job."""

ANONYMOUS_SPEAKER = r"SPEAKER_\d+"
"""Pattern of the label of an unknown speaker."""

SpeakerCount = Annotated[int, Field(ge=1, le=MAX_SPEAKERS)]


class StrictModel(BaseModel):
    """Base of all schemas: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Probability = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]


class VadOptions(StrictModel):
    """Voice activity detection for this recording. Null: the default in the service's `vad` settings."""

    threshold: Probability | None = Field(None, description="Speech begins where its probability reaches this.")
    min_speech_ms: Milliseconds | None = Field(None, description="Shorter sounds are not speech.")
    min_silence_ms: Milliseconds | None = Field(None, description="Shorter silences do not end a segment of speech.")
    pad_ms: Milliseconds | None = Field(None, description="Audio kept before and after a segment of speech.")


class KnownSpeaker(StrictModel):
    """A known voice: its speaker is labelled with this name."""

    name: str = Field(
        min_length=1, max_length=100, description="The speaker's label. Printable, and not of the form `SPEAKER_00`."
    )
    reference: str = Field(
        min_length=1,
        exclude_if=lambda clip: not clip,
        description="An audio clip of 2 to 10 seconds with this voice only: base64 of a file in any format, or a data "
        "URL.",
    )

    @field_validator("name")
    @classmethod
    def _validate_name(cls, value: str) -> str:
        # It is written to line-based files, and must differ from the labels of unknown speakers.
        if not value.isprintable() or value != value.strip() or re.fullmatch(ANONYMOUS_SPEAKER, value):
            raise ValueError(
                "name must not contain line breaks, start or end with a space, or have the form SPEAKER_00, "
                "which is reserved for unknown speakers"
            )
        return value


class DiarizationOptions(StrictModel):
    """Speaker diarization. The number of speakers is estimated if it is not given."""

    num_speakers: SpeakerCount | None = Field(
        None, description="Exact number of speakers. Not together with min_speakers or max_speakers."
    )
    min_speakers: SpeakerCount | None = Field(None, description="Minimum number of speakers.")
    max_speakers: SpeakerCount | None = Field(None, description="Maximum number of speakers.")
    known_speakers: tuple[KnownSpeaker, ...] = Field(
        (), max_length=MAX_KNOWN_SPEAKERS, description="Voices that are labelled with their speaker's name."
    )
    channels: Literal["mixed", "separate"] = Field(
        "mixed", description="`separate`: each channel of the recording has exactly one speaker."
    )

    @field_validator("min_speakers", "max_speakers")
    @classmethod
    def _reject_number_and_range(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("num_speakers") is not None:
            raise ValueError("min_speakers and max_speakers can't be combined with num_speakers")
        return value

    @field_validator("max_speakers")
    @classmethod
    def _validate_range(cls, value: int | None, info: ValidationInfo) -> int | None:
        minimum = info.data.get("min_speakers")
        if value is not None and minimum is not None and value < minimum:
            raise ValueError(f"max_speakers must be at least min_speakers, which is {minimum}")
        return value

    @field_validator("known_speakers")
    @classmethod
    def _reject_duplicate_names(cls, value: tuple[KnownSpeaker, ...]) -> tuple[KnownSpeaker, ...]:
        names = [speaker.name for speaker in value]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"known_speakers must have unique names: {min(duplicates)!r} is repeated")
        return value


class WhisperOptions(StrictModel):
    """Options with the names and meanings of openai-whisper's `transcribe`."""

    task: Task = Field("transcribe", description="`translate`: translate the speech to English.")
    language: str | None = Field(
        None,
        description="ISO-639-1 code or English name of the spoken language. Null: detect it in every window.",
    )
    initial_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT_CHARS,
        description="Prompt of the first window, as if it were the text before it.",
    )
    suppress_tokens: tuple[int, ...] = Field(
        (MODEL_DEFAULT_TOKENS,),
        max_length=1000,
        description="Ids of tokens that are never generated; -1 stands for the model's default list.",
    )
    temperature: float = Field(0.0, ge=0, le=1, description="0: greedy decoding or beam search; above 0: sampling.")
    temperature_increment_on_fallback: float | None = Field(
        0.2,
        ge=0.01,  # limits a window that always fails to 101 attempts
        le=1,
        description="Temperature fallback: a window whose text fails a threshold is decoded again at a temperature "
        "raised by this, up to 1. Null: no fallback.",
    )
    best_of: HypothesisCount = Field(
        1, description="Number of samples above temperature 0; the most likely is returned."
    )
    beam_size: HypothesisCount | None = Field(
        None,
        description="Number of beams at temperature 0; 1: greedy decoding. Null: `num_beams` of the model's "
        "generation config.",
    )
    patience: float = Field(
        1.0, gt=0, le=10, description="Beam search ends when beam_size times this many beams have finished."
    )
    length_penalty: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Exponent of Google NMT's length penalty for ranking beams and samples. Null: rank by "
        "log-probability per token.",
    )
    condition_on_previous_text: bool = Field(
        False,
        description="Each window's prompt is the text of the previous one. Windows are then decoded one after another.",
    )
    compression_ratio_threshold: float | None = Field(
        2.4, gt=0, description="A text with a higher compression ratio (more repetitive) fails. Null: no threshold."
    )
    logprob_threshold: float | None = Field(
        -1.0, le=0, description="A text with a lower mean log-probability fails. Null: no threshold."
    )
    no_speech_threshold: float | None = Field(
        0.6,
        ge=0,
        le=1,
        description="A window that fails logprob_threshold is silence if its no-speech probability is higher. Null: "
        "never.",
    )

    @field_validator("language")
    @classmethod
    def _normalize_language(cls, value: str | None) -> str | None:
        return None if value is None else language_code(value)

    @field_validator("suppress_tokens", mode="before")
    @classmethod
    def _split_token_ids(cls, value: object) -> object:
        """Accept openai-whisper's notation too: comma-separated ids."""
        return [token for token in value.split(",") if token.strip()] if isinstance(value, str) else value

    @field_validator("suppress_tokens")
    @classmethod
    def _validate_token_ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for token in value:
            if token < MODEL_DEFAULT_TOKENS:
                raise ValueError(
                    f"suppress_tokens must be ids from 0, or {MODEL_DEFAULT_TOKENS} for the model's default list, "
                    f"not {token}"
                )
        return value

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures of the attempts, in order."""
        step = self.temperature_increment_on_fallback
        if step is None:
            return (self.temperature,)
        count = int((1 - self.temperature) / step + 1e-6)
        return tuple(round(self.temperature + index * step, 6) for index in range(count + 1))


class TranscriptionOptions(WhisperOptions):
    """All options of a transcription. They have the same names on every front."""

    model: str | None = Field(None, description="Model id or alias. Null: the default model.")
    timestamps: Timestamps = Field(
        "segment", description="`word`: word timestamps too. `none`: decode without timestamps, one segment per window."
    )
    prompt: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="Prompt of every window. Only its last 223 tokens are used."
    )
    hotwords: str | None = Field(
        None,
        max_length=MAX_PROMPT_CHARS,
        description="Words to expect. They are put before the prompt of every window.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="Maximum number of tokens per window. Null: the model's maximum."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Maximum number of windows of this job that are decoded together. Null: the engine's limit.",
    )
    logprobs: bool = Field(False, description="Return the log-probability of every token.")
    vad: VadOptions | None = Field(None, description="Voice activity detection, where it differs from the defaults.")
    diarization: DiarizationOptions | None = Field(
        None, description="Speaker diarization; `{}` for the defaults. Null: no diarization."
    )

    @field_validator("diarization")
    @classmethod
    def _require_timestamps(cls, value: DiarizationOptions | None, info: ValidationInfo) -> DiarizationOptions | None:
        if value is not None and info.data.get("timestamps") == "none":
            raise ValueError("timestamps must be 'segment' or 'word' when diarization is requested")
        return value

    @classmethod
    def from_body(cls, body: WhisperOptions) -> Self:
        """Return the options in a front's request body, which may have other fields too."""
        return cls(**body.model_dump(include=set(cls.model_fields)))

    @property
    def for_decoding(self) -> Self:
        """Return the options for decoding windows: all that diarization needs there are word timestamps."""
        if self.diarization is None:
            return self
        return self.model_copy(update={"timestamps": "word", "diarization": None})

    @property
    def redacted(self) -> Self:
        """Return the options as clients see them: without the clips of known speakers."""
        return self.with_reference_clips([""] * len(self.reference_clips))

    @property
    def reference_clips(self) -> tuple[str, ...]:
        """The reference clips of known speakers."""
        return (
            () if self.diarization is None else tuple(speaker.reference for speaker in self.diarization.known_speakers)
        )

    def with_reference_clips(self, clips: Sequence[str]) -> Self:
        """Return the options with other reference clips of the same known speakers."""
        if self.diarization is None or not clips:
            return self
        speakers = tuple(
            speaker.model_copy(update={"reference": clip})
            for speaker, clip in zip(self.diarization.known_speakers, clips, strict=True)
        )
        return self.model_copy(update={"diarization": self.diarization.model_copy(update={"known_speakers": speakers})})


class UrlSource(StrictModel):
    """Audio that is fetched from an http(s) URL."""

    kind: Literal["url"] = "url"
    url: str


class BlobSource(StrictModel):
    """Audio in the blob store. `digest`: hex SHA-256 of its bytes. `upload`: id of its signed upload, if any."""

    kind: Literal["blob"] = "blob"
    key: str
    digest: str
    upload: str | None = None


class UploadSource(StrictModel):
    """Audio that was uploaded to a signed URL. The service turns it into a blob of the job."""

    kind: Literal["upload"] = "upload"
    id: str


class BodySource(StrictModel):
    """Audio in the body of a request that is not stored yet: once the request is valid, it becomes a blob."""

    kind: Literal["body"] = "body"


Source = Annotated[UrlSource | BlobSource | UploadSource | BodySource, Field(discriminator="kind")]


class Webhook(StrictModel):
    """The webhook that receives a job's events."""

    url: str
    headers: dict[str, str] = Field(default_factory=dict, description="Additional headers of every delivery.")
    events: tuple[WebhookEvent, ...] = Field(
        ("completed", "failed", "cancelled"),
        min_length=1,
        description="Events that are delivered; by default the end of the job.",
    )


class JobRequest(StrictModel):
    """One recording to transcribe."""

    # Stored jobs and their fingerprints have the alias of `webhook_format`.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    source: Source
    options: TranscriptionOptions = TranscriptionOptions()
    webhook: Webhook | None = None
    priority: Priority = Field("normal", description="Jobs of a higher priority are run first.")
    webhook_format: str = Field(
        "native", alias="dialect", description="Name of the front that renders the webhooks (`Front.webhook_payload`)."
    )
    model: str | None = Field(
        None, description="Id of the model that `options.model` resolves to, once the service has accepted the request."
    )

    def with_reference_clips(self, clips: Sequence[str]) -> Self:
        """Return the request with other reference clips of the same known speakers."""
        return self.model_copy(update={"options": self.options.with_reference_clips(clips)})

    @property
    def fingerprint(self) -> str:
        """Hash that detects repeated requests. Uploads are identified by their id, other stored audio by its bytes."""
        content = self.model_dump(mode="json", exclude={"model"})  # the alias may later resolve to another model
        match self.source:
            case UploadSource(id=upload) | BlobSource(upload=str(upload)):
                content["source"] = upload
            case BlobSource(digest=digest):
                content["source"] = digest
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
