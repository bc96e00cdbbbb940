"""What every front parses a request into: one frozen object that travels whole."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.languages import language_code

Task = Literal["transcribe", "translate"]
WebhookEvent = Literal["completed", "failed", "cancelled"]


class Strict(BaseModel):
    """Frozen, and an unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TranscriptionOptions(Strict):
    """How to turn speech into text. The same names on every front."""

    model: str | None = Field(None, description="Model id or alias; null: the default model.")
    task: Task = Field("transcribe", description="`translate` writes English.")
    language: str | None = Field(
        None,
        description="ISO-639-1 code or English name of the spoken language; null: detect it in every window.",
    )
    prompt: str | None = Field(
        None, max_length=10_000, description="Text that conditions every window; its last 223 tokens do."
    )

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        return None if value is None else language_code(value)


class UrlSource(Strict):
    """Audio to be fetched over http(s)."""

    kind: Literal["url"] = "url"
    url: str


class BlobSource(Strict):
    """Audio that was uploaded and lies in the blob store."""

    kind: Literal["blob"] = "blob"
    key: str


Source = Annotated[UrlSource | BlobSource, Field(discriminator="kind")]


class Webhook(Strict):
    """Where to POST when the job ends."""

    url: str
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with every delivery.")
    events: tuple[WebhookEvent, ...] = Field(
        ("completed", "failed", "cancelled"), min_length=1, description="Which ends to report."
    )


class JobRequest(Strict):
    """One recording to transcribe."""

    source: Source
    options: TranscriptionOptions = TranscriptionOptions()
    webhook: Webhook | None = None
