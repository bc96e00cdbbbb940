"""The application's settings, from `args` in a Serve config file and from the environment.

Each setting can be set by an environment variable: `STT_` and its name in capitals, with `__` between a section and
its setting (`STT_MODEL=…`, `STT_LIMITS__MAX_UPLOAD_BYTES=…`; lists and sections as JSON). The environment takes
precedence over the file. Unknown names in either are errors.
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
    """Base of the groups of settings: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(Section):
    """The logs, on the standard output of each process."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = Field(
        "json", description="`json`: one object a line, for collectors. `text`: for people."
    )


class LimitSettings(Section):
    """Limits of requests, each reported with a 4xx status."""

    max_upload_bytes: PositiveInt = Field(
        512 * 2**20, description="Maximum size of a request body, or of a file at a URL."
    )
    max_audio_s: PositiveFloat = Field(4 * 3600.0, description="Maximum length of a recording in seconds.")
    max_clip_bytes: PositiveInt = Field(4 * 2**20, description="Maximum size of a known speaker's audio clip.")
    max_queued_jobs: PositiveInt = Field(
        10_000, description="Maximum number of queued jobs. Further jobs are rejected with 429."
    )
    fetch_timeout_s: PositiveFloat = Field(600.0, description="Total time for downloading the audio at a URL.")
    request_timeout_s: PositiveFloat = Field(3600.0, description="Total time for a synchronous transcription.")


class NetworkSettings(Section):
    """Restrictions of the URLs for audio and webhooks."""

    allow_private_addresses: bool = Field(
        False, description="Allow URLs and webhooks with private, loopback and link-local addresses."
    )
    max_redirects: int = Field(5, ge=0, description="Maximum number of redirects when downloading audio.")


class VadSettings(Section):
    """Voice activity detection by silero-vad, on frames of 32 ms."""

    threshold: float = Field(0.15, gt=0, lt=1, description="Speech begins where its probability reaches this.")
    min_speech_ms: int = Field(100, ge=0, description="Shorter sounds are not speech.")
    min_silence_ms: int = Field(200, ge=0, description="Shorter silences do not end a segment of speech.")
    pad_ms: int = Field(400, ge=0, description="Audio kept before and after a segment of speech.")


class WindowSettings(Section):
    """Sizes of the windows and blocks that recordings are cut into."""

    max_s: float | None = Field(
        None, ge=1, le=30, description="Maximum length of a window. Null: 10 for whisper-nano, 30 for other models."
    )
    block_s: PositiveFloat = Field(300.0, description="Maximum amount of audio in one call of a Whisper replica.")
    blocks_in_flight: PositiveInt = Field(
        4, description="Maximum number of blocks of a job that are transcribed at the same time."
    )
    streamed_in_flight: PositiveInt = Field(
        16,
        description="Maximum number of windows of a recording with streamed text that are transcribed at the same "
        "time, each in "
        "its own call.",
    )


class WhisperSettings(Section):
    """Device and precision of the Whisper models."""

    device: Device = "auto"
    dtype: Dtype = Field(
        "auto",
        description="auto: float16 on cuda; on cpu bfloat16 if the CPU has instructions for it, else float32.",
    )
    threads: PositiveInt | None = Field(
        None, description="Number of CPU threads of a replica. Null: one per core it may use."
    )
    watchdog_s: PositiveFloat = Field(
        60.0, description="A replica that has not finished a step for this long is replaced."
    )


class DiarizationSettings(Section):
    """Speaker diarization."""

    pipeline: str | None = Field(
        None,
        description="`pyannote-3.0-campplus` (downloaded, 81 MB), `diarization-nano` (embedded, for tests), a hub id "
        "like pyannote/speaker-diarization-community-1, or a folder. Null: off. Requires the extra `diarization`.",
    )
    token: SecretStr | None = Field(None, description="Access token of the hub, for gated pipelines.")
    device: Device = "auto"
    threads: PositiveInt | None = Field(
        None, description="Number of CPU threads of a replica. Null: one per core it may use."
    )
    batch_size: PositiveInt | None = Field(
        None, description="Number of audio chunks computed together. Null: 8 on a CPU, 32 on a GPU."
    )
    known_similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Minimum cosine similarity at which a speaker is identified as a known speaker. Null: 0.85 for "
        "diarization-nano, else 0.5.",
    )
    max_audio_s: PositiveFloat = Field(
        4 * 3600.0,
        description="Longer recordings are not diarized: memory and time grow with the square of the length.",
    )
    max_channels: PositiveInt = Field(
        8, description="Maximum number of channels of a recording with one channel per speaker."
    )
    timeout_s: PositiveFloat = Field(
        600.0,
        description="Diarization may take this long plus the length of the recording. Then the transcript has no "
        "speakers.",
    )
    watchdog_s: PositiveFloat = Field(
        600.0, description="A replica that has not finished a step for this long is replaced."
    )


class ServedModel(Section):
    """A served model, with its own Whisper deployment."""

    id: ModelName = Field(description="The model's id, by which clients request it.")
    aliases: tuple[ModelName, ...] = Field((), description="Other names by which clients can request it.")
    checkpoint: ModelName = Field(
        default_factory=lambda data: data["id"],
        description="A name of the catalogue, the embedded model, a hub id, or a folder. Default: the id.",
    )
    tier: Tier | None = Field(
        None, description="The tier by which Tiyaro's clients request it, see docs/fronts.md. Null: none."
    )
    device: Device | None = Field(
        None, description="Overrides `whisper.device`, as the two below override theirs. Null: not overridden."
    )
    dtype: Dtype | None = None
    threads: PositiveInt | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its id, then its aliases."""
        return (self.id, *self.aliases)

    def effective_whisper_settings(self, whisper: WhisperSettings) -> WhisperSettings:
        """Return the `whisper` settings with this model's overrides."""
        overrides = {"device": self.device, "dtype": self.dtype, "threads": self.threads}
        return whisper.model_copy(update={name: value for name, value in overrides.items() if value is not None})


class JobSettings(Section):
    """Asynchronous jobs."""

    max_running: PositiveInt = Field(8, description="Maximum number of asynchronous jobs that run at the same time.")
    max_attempts: PositiveInt = Field(3, description="The job fails after this many runs that failed themselves.")
    max_losses: PositiveInt = Field(
        5,
        description="The job fails after this many runs in a row that died with a process without completing a "
        "further block.",
    )
    lease_s: PositiveFloat = Field(
        30.0, description="A job whose lease was not renewed for this long is run by another manager."
    )
    retention_s: float = Field(
        24 * 3600.0, gt=0, le=10 * 365 * 86400, description="A finished job is deleted after this."
    )


class UploadSettings(Section):
    """Uploads by signed URL, and the deletion of unused uploads."""

    expires_s: float = Field(
        3600.0,
        gt=0,
        le=7 * 86400,
        description="How long a signed URL is valid, and how long the uploaded file can then be claimed by a job.",
    )
    signing_key: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        None, description="Key that signs the URLs. Null: a generated key, stored in data_dir for all ingress replicas."
    )
    sweep_after_s: PositiveFloat = Field(
        24 * 3600.0,
        description="Uploads and temporary files that no job uses are deleted at this age. At least twice expires_s.",
    )

    @model_validator(mode="after")
    def _validate_sweep_age(self) -> Self:
        # An upload that a job may still claim must not be deleted.
        if self.sweep_after_s < 2 * self.expires_s:
            raise ValueError(
                f"sweep_after_s must be at least twice expires_s, {2 * self.expires_s:g}, not {self.sweep_after_s:g}"
            )
        return self


class WebhookSettings(Section):
    """Webhook deliveries."""

    secrets: tuple[SecretStr, ...] = Field(
        (),
        description="Signing secrets, each `whsec_` followed by base64. Every delivery is signed with all of them, as "
        "in "
        "Standard Webhooks 1.0, so that secrets can be rotated. Empty: deliveries are not signed.",
    )
    timeout_s: PositiveFloat = 15.0
    retry_delays_s: tuple[NonNegativeFloat, ...] = Field(
        (0, 5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600),
        min_length=1,
        description="Delay before each attempt; the number of delays is the number of attempts.",
    )
    max_in_flight: PositiveInt = Field(64, description="Maximum number of concurrent deliveries.")
    max_per_host: PositiveInt = Field(
        4, description="Maximum number of concurrent deliveries to one host, so that a slow host does not delay others."
    )

    @field_validator("secrets")
    @classmethod
    def _validate_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in value:
            try:
                key = b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
            except ValueError:
                raise ValueError("a webhook secret must be 'whsec_' followed by base64") from None
            if not 24 <= len(key) <= 64:
                raise ValueError(f"a webhook secret must be 24 to 64 bytes long after base64 decoding, not {len(key)}")
        return value


class VerdaSettings(Section):
    """Verda's front."""

    status_names: bool = Field(
        False, description="Return a status as a name, as Verda's Python SDK expects, instead of a number from 0 to 3."
    )
    webhook: AnyHttpUrl | None = Field(
        None, description="URL that receives the texts of `/generate_webhook`. Null: that path answers with 500."
    )


class AppSettings(BaseSettings):
    """All settings of the application. Frozen."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", protected_namespaces=()
    )

    model: ModelName = Field(
        "whisper-base",
        description="Default model: a name of the catalogue (docs/models.md), the embedded model, a hub id, or a "
        "folder.",
    )
    model_fallback: ModelName | None = Field(
        None,
        description="Served, with a warning, instead of a default model of the catalogue that can't be downloaded. "
        "Null: the "
        "service does not start then.",
    )
    model_aliases: tuple[ModelName, ...] = Field(
        ("whisper-1",), description="Other names by which clients can request it."
    )
    model_tier: Tier | None = Field(None, description="Tier of the default model, like `tier` in `models`.")
    models: tuple[ServedModel, ...] = Field((), description="Further models, each with its own deployment.")
    data_dir: Path = Field(
        Path("data"),
        description="Folder of uploads, temporary files and downloaded models. It must be shared by all nodes.",
    )
    blobs: str | None = Field(
        None,
        pattern=r"^[a-z0-9]+://.",
        description="Storage of uploads: an fsspec URL such as s3://bucket/prefix (requires the extra `s3`). Null: "
        "data_dir. "
        "If this and uploads.signing_key are set, data_dir need not be shared by the nodes.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+(/[^?#]*)?$",
        description="Base URL of the service for clients, used in URLs in responses. Null: from the request's Host "
        "header.",
    )
    database: str | None = Field(
        None,
        description="Database of jobs: PostgreSQL as postgresql://user:password@host/name, or an SQLite file on a "
        "local disk of the job manager's node (SQLite does not work on a network file system). Null: jobs.db in "
        "data_dir.",
    )
    fronts: tuple[str, ...] | None = Field(
        None, description="Names of the APIs of other services to serve; null: all. The native API is always served."
    )
    api_keys: tuple[Annotated[SecretStr, Field(min_length=1)], ...] = Field(
        (), description="Accepted API keys. Empty: no authentication."
    )
    logs: LogSettings = LogSettings()
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
        """All served models, the default model first."""
        return (ServedModel(id=self.model, aliases=self.model_aliases, tier=self.model_tier), *self.models)

    def served_model(self, name: str | None) -> ServedModel:
        """Return the model with an id or alias; null: the default model. Raises NotFound if it is not served."""
        models = self.served_models
        if name is None:
            return models[0]
        for model in models:
            if name in model.names:
                return model
        served = ", ".join(served for model in models for served in model.names)
        raise NotFound(f"model {name!r} is not served: use one of {served}", "model", "model_not_found")

    @property
    def blob_root(self) -> str:
        """The storage of uploads until their job has ended: a folder or an fsspec URL."""
        return self.blobs or str(self.data_dir / "blobs")

    @property
    def models_dir(self) -> Path:
        """The folder of downloaded and converted models."""
        return self.data_dir / "models"

    @property
    def spool_dir(self) -> Path:
        """The folder of temporary files."""
        return self.data_dir / "tmp"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the jobs' database."""
        database = self.database or str(self.data_dir / "jobs.db")
        _, is_url, rest = database.partition("://")
        return f"postgresql+asyncpg://{rest}" if is_url else f"sqlite+aiosqlite:///{database}"

    @model_validator(mode="after")
    def _reject_duplicate_names(self) -> Self:
        fields: dict[str, str] = {}
        for index, model in enumerate(self.served_models, -1):
            id_field, aliases_field = (
                ("model", "model_aliases") if index < 0 else (f"models.{index}.id", f"models.{index}.aliases")
            )
            for field, name in [(id_field, model.id), *((aliases_field, alias) for alias in model.aliases)]:
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
    def _validate_database(cls, value: str | None) -> str | None:
        scheme, is_url, _ = (value or "").partition("://")
        if is_url and scheme not in ("postgresql", "postgres"):
            raise ValueError(
                f"database: {scheme}:// is not supported: use postgresql://… or the path of an SQLite file"
            )
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
        """Give the environment precedence over the file, so that the same image can be configured from outside."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _reject_unknown_variables(self) -> Self:
        for name in os.environ:
            if name.startswith(ENV_PREFIX):
                setting = name.removeprefix(ENV_PREFIX).split("__")[0].lower()
                if setting not in type(self).model_fields:
                    raise ValueError(f"environment variable {name}: there is no setting {setting!r}")
        return self
