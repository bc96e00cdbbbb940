"""Requests: every front parses its request into one frozen object."""

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
WebhookDialect = Literal["native", "insanely_fast", "verda"]

MODEL_DEFAULT_TOKENS = -1
"""In `suppress_tokens`: the list of the model's generation config."""

MAX_PROMPT = 10_000
"""Characters of a text that conditions windows; far fewer find room before a window's own."""

MAX_HYPOTHESES = 16
"""Texts of one window that may be decoded side by side: each takes a row of the engine."""

HypothesisCount = Annotated[int, Field(ge=1, le=MAX_HYPOTHESES)]

MAX_SPEAKERS = 100
"""Speakers of one recording that may be asked for."""

MAX_KNOWN_SPEAKERS = 4
"""Voices that may be given with one recording, as many as OpenAI takes: each travels with the job."""

ANONYMOUS_SPEAKER = r"SPEAKER_\d+"
"""The label of a speaker without a name."""

SpeakerCount = Annotated[int, Field(ge=1, le=MAX_SPEAKERS)]


class StrictModel(BaseModel):
    """Frozen, and an unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Probability = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]


class VadOptions(StrictModel):
    """Voice activity detection for one recording; null: the default in the service's `vad` settings."""

    threshold: Probability | None = Field(None, description="Speech begins at this probability.")
    min_speech_ms: Milliseconds | None = Field(None, description="Shorter bursts are not speech.")
    min_silence_ms: Milliseconds | None = Field(None, description="Shorter silences do not end a stretch of speech.")
    pad_ms: Milliseconds | None = Field(None, description="Sound kept before and after a stretch of speech.")


class KnownSpeaker(StrictModel):
    """A voice with a name: where it is heard, that is who speaks."""

    name: str = Field(
        min_length=1, max_length=100, description="Shown as the speaker: printable, and not of the form `SPEAKER_00`."
    )
    reference: str = Field(
        min_length=1,
        exclude_if=lambda clip: not clip,
        description="2 to 10 seconds of that voice alone: base64 of a file in any format, or a data URL.",
    )

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        # Files of lines show it, and it must be told from a speaker that has none.
        if not value.isprintable() or value != value.strip() or re.fullmatch(ANONYMOUS_SPEAKER, value):
            raise ValueError(
                "a name must not contain line breaks, start or end with a space, or look like SPEAKER_00, "
                "which is reserved for unknown speakers"
            )
        return value


class DiarizationOptions(StrictModel):
    """Speaker diarization. Without a number of speakers it is estimated."""

    num_speakers: SpeakerCount | None = Field(None, description="So many speak; not together with the two below.")
    min_speakers: SpeakerCount | None = Field(None, description="At least so many speak.")
    max_speakers: SpeakerCount | None = Field(None, description="At most so many speak.")
    known_speakers: tuple[KnownSpeaker, ...] = Field(
        (), max_length=MAX_KNOWN_SPEAKERS, description="Voices to be called by name where they are heard."
    )
    channels: Literal["mixed", "separate"] = Field(
        "mixed", description="`separate`: each channel of the recording is one speaker's."
    )

    @field_validator("min_speakers", "max_speakers")
    @classmethod
    def _one_number_or_a_range(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("num_speakers") is not None:
            raise ValueError("min_speakers and max_speakers can't be combined with num_speakers")
        return value

    @field_validator("max_speakers")
    @classmethod
    def _not_below_the_least(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_speakers")
        if value is not None and least is not None and value < least:
            raise ValueError(f"must be at least min_speakers, which is {least}")
        return value

    @field_validator("known_speakers")
    @classmethod
    def _told_apart(cls, value: tuple[KnownSpeaker, ...]) -> tuple[KnownSpeaker, ...]:
        names = [speaker.name for speaker in value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names of speakers must be unique: {min(twice)!r} is repeated")
        return value


class WhisperOptions(StrictModel):
    """The options of openai-whisper's command and `transcribe`, by the same names."""

    task: Task = Field("transcribe", description="`translate` writes English.")
    language: str | None = Field(
        None,
        description="ISO-639-1 code or English name of the spoken language; null: detect it in every window.",
    )
    initial_prompt: str | None = Field(
        None, max_length=MAX_PROMPT, description="Text that conditions the first window, as if it had been said before."
    )
    suppress_tokens: tuple[int, ...] = Field(
        (MODEL_DEFAULT_TOKENS,),
        max_length=1000,
        description="Token ids never to write; -1 stands for the model's own list.",
    )
    temperature: float = Field(
        0.0, ge=0, le=1, description="0 decodes greedily or by beam search; above, tokens are drawn at random."
    )
    temperature_increment_on_fallback: float | None = Field(
        0.2,
        ge=0.01,  # each is a try: of a window that always fails there are 101 at most
        le=1,
        description="A window that fails a threshold is tried again hotter by this, up to 1; null: never.",
    )
    best_of: HypothesisCount = Field(1, description="Texts drawn above temperature 0; the likeliest wins.")
    beam_size: HypothesisCount | None = Field(
        None,
        description="Beams at temperature 0; 1: greedy; null: `num_beams` of the generation config of the model.",
    )
    patience: float = Field(1.0, gt=0, le=10, description="Beam search ends when beam_size times this many texts have.")
    length_penalty: float | None = Field(
        None, ge=0, le=1, description="Exponent of Google NMT's length penalty; null: log-probability per token."
    )
    condition_on_previous_text: bool = Field(
        False, description="Each window is told the text of the one before: windows of a job then run in turn."
    )
    compression_ratio_threshold: float | None = Field(
        2.4, gt=0, description="A more repetitive text fails; null: none does."
    )
    logprob_threshold: float | None = Field(
        -1.0, le=0, description="A text of a lower mean log-probability fails; null: none does."
    )
    no_speech_threshold: float | None = Field(
        0.6, ge=0, le=1, description="A window that fails logprob_threshold is silence above this; null: never."
    )

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        return None if value is None else language_code(value)

    @field_validator("suppress_tokens", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Whisper's own notation too: ids with commas between."""
        return [token for token in value.split(",") if token.strip()] if isinstance(value, str) else value

    @field_validator("suppress_tokens")
    @classmethod
    def _token_ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for token in value:
            if token < MODEL_DEFAULT_TOKENS:
                raise ValueError(
                    f"{token} is not a token id: use ids from 0, or {MODEL_DEFAULT_TOKENS} for the model's own list"
                )
        return value

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try, in order: Whisper's ladder."""
        step = self.temperature_increment_on_fallback
        if step is None:
            return (self.temperature,)
        count = int((1 - self.temperature) / step + 1e-6)
        return tuple(round(self.temperature + index * step, 6) for index in range(count + 1))


class TranscriptionOptions(WhisperOptions):
    """The options of a transcription, by the same names on every front."""

    model: str | None = Field(None, description="Model id or alias; null: the default model.")
    timestamps: Timestamps = Field(
        "segment", description="`word` adds every word's time; `none` decodes without timestamps, a segment a window."
    )
    prompt: str | None = Field(
        None, max_length=MAX_PROMPT, description="Text that conditions every window; its last 223 tokens do."
    )
    hotwords: str | None = Field(
        None, max_length=MAX_PROMPT, description="Words to expect, before the prompt of every window."
    )
    max_new_tokens: int | None = Field(None, ge=1, description="Tokens of a window at most; null: what the model can.")
    batch_size: int | None = Field(
        None, ge=1, description="Windows of this job decoded at a time at most; null: as many as the engine lets it."
    )
    logprobs: bool = Field(False, description="Report every token's log-probability.")
    vad: VadOptions | None = Field(None, description="How speech is told from silence, where not as by default.")
    diarization: DiarizationOptions | None = Field(
        None, description="Tell who says what, and how to; `{}` finds all of it out. Null: speakers are not told apart."
    )

    @field_validator("diarization")
    @classmethod
    def _with_times(cls, value: DiarizationOptions | None, info: ValidationInfo) -> DiarizationOptions | None:
        if value is not None and info.data.get("timestamps") == "none":
            raise ValueError("timestamps must be 'segment' or 'word' when diarization is requested")
        return value

    @classmethod
    def of(cls, body: WhisperOptions) -> Self:
        """The options in a front's body, which may have more fields than these."""
        return cls(**body.model_dump(include=set(cls.model_fields)))

    @property
    def for_decoding(self) -> Self:
        """Return the options for decoding windows: diarization needs nothing but word timestamps."""
        if self.diarization is None:
            return self
        return self.model_copy(update={"timestamps": "word", "diarization": None})

    @property
    def redacted(self) -> Self:
        """Return the options as clients see them: of known speakers only the names."""
        return self.with_clips([""] * len(self.clips))

    @property
    def clips(self) -> tuple[str, ...]:
        """Known speakers' clips."""
        return () if self.diarization is None else tuple(one.reference for one in self.diarization.known_speakers)

    def with_clips(self, clips: Sequence[str]) -> Self:
        """The options with other clips of the same known speakers."""
        if self.diarization is None or not clips:
            return self
        speakers = tuple(
            speaker.model_copy(update={"reference": clip})
            for speaker, clip in zip(self.diarization.known_speakers, clips, strict=True)
        )
        return self.model_copy(update={"diarization": self.diarization.model_copy(update={"known_speakers": speakers})})


class UrlSource(StrictModel):
    """Audio to be fetched over http(s)."""

    kind: Literal["url"] = "url"
    url: str


class BlobSource(StrictModel):
    """Audio that lies in the blob store. `digest`: SHA-256 of its bytes, in hex; `upload`: the id it came by."""

    kind: Literal["blob"] = "blob"
    key: str
    digest: str
    upload: str | None = None


class UploadSource(StrictModel):
    """Audio that was brought by a signed URL: the service makes it the job's own blob."""

    kind: Literal["upload"] = "upload"
    id: str


class BodySource(StrictModel):
    """Audio in the body of a request that is not stored yet: once the request is valid, it becomes a blob."""

    kind: Literal["body"] = "body"


Source = Annotated[UrlSource | BlobSource | UploadSource | BodySource, Field(discriminator="kind")]


class Webhook(StrictModel):
    """The webhook that a job's events are posted to."""

    url: str
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with every delivery.")
    events: tuple[WebhookEvent, ...] = Field(
        ("completed", "failed", "cancelled"), min_length=1, description="What to report; by default the end."
    )


class JobRequest(StrictModel):
    """One recording to transcribe."""

    source: Source
    options: TranscriptionOptions = TranscriptionOptions()
    webhook: Webhook | None = None
    priority: Priority = Field("normal", description="Jobs of a higher priority are run first.")
    dialect: WebhookDialect = Field("native", description="The front whose bodies the webhooks have.")
    model: str | None = Field(
        None, description="Id of the model that `options.model` leads to, once the service has accepted the request."
    )

    def with_clips(self, clips: Sequence[str]) -> Self:
        """The request with other clips of the same known speakers."""
        return self.model_copy(update={"options": self.options.with_clips(clips)})

    @property
    def fingerprint(self) -> str:
        """The same for the same request: uploads are told apart by their ids, other audio by its bytes."""
        content = self.model_dump(mode="json", exclude={"model"})  # the same request may come to lead to another
        match self.source:
            case UploadSource(id=upload) | BlobSource(upload=str(upload)):
                content["source"] = upload
            case BlobSource(digest=digest):
                content["source"] = digest
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
