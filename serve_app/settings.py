"""The application's arguments: `args` of a Serve config file, or the environment.

Every setting can come from an environment variable: `STT_` and its name in capitals, `__`
between a section and its setting (`STT_MODEL=…`, `STT_LIMITS__MAX_UPLOAD_BYTES=…`; lists and
sections as JSON). The environment wins over the file. An unknown name in either is refused.
"""

import os
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from serve_app.errors import NotFound

ENV_PREFIX = "STT_"

Tier = Literal["cpuflex", "gpuflex"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
ModelName = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A group of settings: frozen, and an unknown name is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LimitSettings(Section):
    """Limits of requests. Each has its own 4xx status."""

    max_upload_bytes: PositiveInt = Field(512 * 2**20, description="A request body, or a file behind a URL.")
    max_audio_s: PositiveFloat = Field(4 * 3600.0, description="Seconds of sound in one recording.")
    max_clip_bytes: PositiveInt = Field(4 * 2**20, description="The clip of a known speaker's voice.")
    max_queued_jobs: PositiveInt = Field(10_000, description="Jobs waiting to run; more are answered 429.")
    fetch_timeout_s: PositiveFloat = Field(600.0, description="Fetching the audio behind a URL, in all.")
    request_timeout_s: PositiveFloat = Field(3600.0, description="One synchronous transcription, in all.")


class NetworkSettings(Section):
    """The addresses that audio URLs and webhooks may point to."""

    allow_private_addresses: bool = Field(
        False, description="Let URLs and webhooks point at private, loopback and link-local addresses."
    )
    max_redirects: int = Field(5, ge=0, description="Redirects followed when fetching audio.")


class VadSettings(Section):
    """Voice activity detection by silero-vad; thresholds are probabilities of 32 ms frames."""

    threshold: float = Field(0.15, gt=0, lt=1, description="Speech begins at this probability.")
    min_speech_ms: int = Field(100, ge=0, description="Shorter bursts are not speech.")
    min_silence_ms: int = Field(200, ge=0, description="Shorter silences do not end a stretch of speech.")
    pad_ms: int = Field(400, ge=0, description="Sound kept before and after a stretch of speech.")


class WindowSettings(Section):
    """How recordings are cut into windows and blocks."""

    max_s: float | None = Field(
        None, ge=1, le=30, description="Longest window; null: what suits the model (10 for whisper-nano, else 30)."
    )
    block_s: PositiveFloat = Field(300.0, description="Audio sent to a Whisper replica in one call, at most.")
    blocks_in_flight: PositiveInt = Field(4, description="Blocks of one job at the replicas at a time.")
    streamed_in_flight: PositiveInt = Field(
        16, description="Windows of a recording whose text is streamed at the replicas at a time, each in its own call."
    )


class WhisperSettings(Section):
    """Devices and precision of the models."""

    device: Device = "auto"
    dtype: Dtype = Field(
        "auto",
        description="auto: float16 on cuda; on cpu bfloat16 where it has instructions for it, else float32.",
    )
    threads: PositiveInt | None = Field(None, description="CPU threads of a replica; null: every core it may use.")
    watchdog_s: PositiveFloat = Field(
        60.0, description="A replica whose device has not finished a step for so long is replaced."
    )


class DiarizationSettings(Section):
    """Speaker diarization by a pyannote pipeline."""

    pipeline: str | None = Field(
        None,
        description="`diarization-nano` (embedded), a hub id such as pyannote/speaker-diarization-community-1, or a "
        "folder; null: off. Needs the extra diarization.",
    )
    token: SecretStr | None = Field(None, description="The hub's, for pipelines that ask for one.")
    device: Device = "auto"
    threads: PositiveInt | None = Field(None, description="CPU threads of a replica; null: every core it may use.")
    batch_size: PositiveInt | None = Field(
        None, description="Chunks of sound computed together; null: 8 on a CPU, 32 on a GPU."
    )
    known_similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A speaker is a known one from this cosine similarity of their voices on; null: 0.85 for "
        "diarization-nano, else 0.5.",
    )
    max_audio_s: PositiveFloat = Field(
        4 * 3600.0, description="Longer recordings go without speakers: memory and time grow with a length's square."
    )
    max_channels: PositiveInt = Field(8, description="Of a recording with a channel for each speaker.")
    timeout_s: PositiveFloat = Field(
        600.0, description="A recording's speakers may take so long, and as long as it lasts; then it goes without."
    )
    watchdog_s: PositiveFloat = Field(
        600.0, description="A replica that has not finished a step for so long is replaced."
    )


class ServedModel(Section):
    """A model we serve: a Whisper deployment of its own, under names that clients may use."""

    id: ModelName = Field(description="Its first name.")
    aliases: tuple[ModelName, ...] = Field((), description="Other names clients may use for it.")
    checkpoint: ModelName = Field(
        default_factory=lambda given: given["id"],
        description="A name of the catalogue, the embedded model, a hub id, or a folder; absent: what the id says.",
    )
    tier: Tier | None = Field(None, description="Tiyaro's clients ask for one: docs/fronts.md; null: of none.")
    device: Device | None = Field(None, description="Null: as `whisper` says, like the two below.")
    dtype: Dtype | None = None
    threads: PositiveInt | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names clients may use, its own first."""
        return (self.id, *self.aliases)

    def effective_whisper_settings(self, whisper: WhisperSettings) -> WhisperSettings:
        """Return the `whisper` settings with this model's overrides."""
        own = {"device": self.device, "dtype": self.dtype, "threads": self.threads}
        return whisper.model_copy(update={name: value for name, value in own.items() if value is not None})


class JobSettings(Section):
    """The job manager's work."""

    max_running: PositiveInt = Field(8, description="Asynchronous jobs running at a time.")
    max_attempts: PositiveInt = Field(3, description="Runs of a job that may fail by themselves before it does.")
    max_losses: PositiveInt = Field(
        5, description="Runs of a job that may be lost with a process, and no further block done, before it fails."
    )
    lease_s: PositiveFloat = Field(
        30.0, description="A job whose manager is not heard of for so long is run by another one."
    )
    retention_s: float = Field(
        24 * 3600.0, gt=0, le=10 * 365 * 86400, description="A finished job is forgotten after this."
    )


class UploadSettings(Section):
    """Recordings brought by a signed URL, and what is left of those that nobody used."""

    expires_s: float = Field(
        3600.0,
        gt=0,
        le=7 * 86400,
        description="A URL works this long; what was put there then waits as long for a job.",
    )
    signing_key: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        None, description="Signs the URLs; null: a key made once, kept in data_dir for every ingress replica."
    )
    sweep_after_s: PositiveFloat = Field(
        24 * 3600.0,
        description="Uploads and temporary files of this age that no job uses are deleted; at least twice expires_s.",
    )

    @model_validator(mode="after")
    def _swept_late_enough(self) -> Self:
        # What a job may still claim is never old enough to be swept.
        if self.sweep_after_s < 2 * self.expires_s:
            raise ValueError(f"sweep_after_s must be at least twice expires_s: {2 * self.expires_s:g}")
        return self


class WebhookSettings(Section):
    """The delivery of webhooks."""

    secrets: tuple[SecretStr, ...] = Field(
        (),
        description="Each `whsec_` + base64; all sign every delivery, as Standard Webhooks 1.0 has it for the time in "
        "which receivers change from one to the next. None: unsigned.",
    )
    timeout_s: PositiveFloat = 15.0
    retry_delays_s: tuple[NonNegativeFloat, ...] = Field(
        (0, 5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600),
        min_length=1,
        description="Wait before each try; its length is the number of tries.",
    )
    max_in_flight: PositiveInt = Field(64, description="Deliveries on their way at a time.")
    max_per_host: PositiveInt = Field(
        4, description="Of these to one host, so that one that does not answer delays no other."
    )

    @field_validator("secrets")
    @classmethod
    def _usable_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in value:
            try:
                key = b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
            except ValueError:
                raise ValueError("a webhook secret must be 'whsec_' followed by base64") from None
            if not 24 <= len(key) <= 64:
                raise ValueError(f"a webhook secret must be 24 to 64 bytes long, not {len(key)}")
        return value


class VerdaSettings(Section):
    """The front of Verda's containers."""

    status_names: bool = Field(
        False, description="A status is a name, as Verda's Python SDK wants it, instead of a number from 0 to 3."
    )
    webhook: AnyHttpUrl | None = Field(
        None, description="Where the texts of `/generate_webhook` are sent; null: that path answers 500."
    )


class AppSettings(BaseSettings):
    """Everything the application can be told, frozen."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", protected_namespaces=()
    )

    model: ModelName = Field(
        "whisper-base",
        description="The default: a name of the catalogue (docs/models.md), the embedded model, a hub id, or a folder.",
    )
    model_fallback: ModelName | None = Field(
        None,
        description="Served instead of a default of the catalogue that can't be fetched, with a warning; null: the "
        "service does not start then.",
    )
    model_aliases: tuple[ModelName, ...] = Field(("whisper-1",), description="Other names clients may use for it.")
    model_tier: Tier | None = Field(None, description="Its tier, as `tier` of the others.")
    models: tuple[ServedModel, ...] = Field((), description="Models beside it, each a deployment of its own.")
    data_dir: Path = Field(
        Path("data"), description="Uploads, temporary files, fetched models: one folder, the same on every node."
    )
    blobs: str | None = Field(
        None,
        pattern=r"^[a-z0-9]+://.",
        description="Uploads elsewhere: an fsspec URL, such as s3://bucket/prefix (needs the extra s3); null: in "
        "data_dir, which may be each node's own if uploads are elsewhere and uploads.signing_key is set.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+(/[^?#]*)?$",
        description="Where clients reach the service, for URLs in answers; null: as the request's Host header says.",
    )
    database: str | None = Field(
        None,
        description="The jobs' PostgreSQL, as postgresql://user:password@host/name, or their SQLite file, on a disk of "
        "the job manager's node (SQLite does not work over a network file system); null: jobs.db in data_dir.",
    )
    fronts: tuple[str, ...] | None = Field(
        None, description="Names of the APIs of other services to serve; null: all. The native API is always served."
    )
    api_keys: tuple[Annotated[SecretStr, Field(min_length=1)], ...] = Field(
        (), description="Accepted API keys; none: open to everyone."
    )
    limits: LimitSettings = LimitSettings()
    network: NetworkSettings = NetworkSettings()
    vad: VadSettings = VadSettings()
    windows: WindowSettings = WindowSettings()
    whisper: WhisperSettings = WhisperSettings()
    diarization: DiarizationSettings = DiarizationSettings()
    jobs: JobSettings = JobSettings()
    uploads: UploadSettings = UploadSettings()
    webhooks: WebhookSettings = WebhookSettings()
    verda: VerdaSettings = VerdaSettings()

    @property
    def served_models(self) -> tuple[ServedModel, ...]:
        """All models, the default first."""
        return (ServedModel(id=self.model, aliases=self.model_aliases, tier=self.model_tier), *self.models)

    def served_model(self, name: str | None) -> ServedModel:
        """The model of that id or alias; null: the default. Raises NotFound for one that is not served."""
        models = self.served_models
        if name is None:
            return models[0]
        for model in models:
            if name in model.names:
                return model
        known = ", ".join(known for model in models for known in model.names)
        raise NotFound(f"model {name!r} is not served: use one of {known}", "model", "model_not_found")

    @property
    def blob_root(self) -> str:
        """The storage of uploads until their job has ended: a folder, or an fsspec URL."""
        return self.blobs or str(self.data_dir / "blobs")

    @property
    def models_dir(self) -> Path:
        """The folder of fetched and converted models."""
        return self.data_dir / "models"

    @property
    def spool_dir(self) -> Path:
        """The folder of temporary files."""
        return self.data_dir / "tmp"

    @property
    def database_url(self) -> str:
        """The jobs' database, as SQLAlchemy wants it."""
        database = self.database or str(self.data_dir / "jobs.db")
        _, is_url, rest = database.partition("://")
        return f"postgresql+asyncpg://{rest}" if is_url else f"sqlite+aiosqlite:///{database}"

    @model_validator(mode="after")
    def _a_name_is_one_models(self) -> Self:
        fields: dict[str, str] = {}
        for place, model in enumerate(self.served_models, -1):
            own, others = ("model", "model_aliases") if place < 0 else (f"models.{place}.id", f"models.{place}.aliases")
            for field, name in [(own, model.id), *((others, alias) for alias in model.aliases)]:
                if name in fields:
                    raise ValueError(f"{field}: {name!r} is already used in {fields[name]}: names must be unique")
                fields[name] = field
        if self.model_fallback not in (None, self.model) and self.model_fallback in fields:
            field = fields[self.model_fallback]
            raise ValueError(
                f"model_fallback: {self.model_fallback!r} is already used in {field}: names must be unique"
            )
        return self

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        scheme, is_url, _ = (value or "").partition("://")
        if is_url and scheme not in ("postgresql", "postgres"):
            raise ValueError(f"{scheme}:// is not a supported database: use postgresql://… or the path of a file")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file, so that one image can be tuned from outside."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _no_unknown_variable(self) -> Self:
        for name in os.environ:
            if name.startswith(ENV_PREFIX):
                setting = name.removeprefix(ENV_PREFIX).split("__")[0].lower()
                if setting not in type(self).model_fields:
                    raise ValueError(f"environment variable {name}: there is no setting {setting!r}")
        return self
