"""What a Whisper checkpoint can do, known without loading it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from transformers.utils.hub import cached_file

from serve_app.errors import InvalidRequest
from serve_app.languages import language_name
from serve_app.models import model_source
from serve_app.options import TranscriptionOptions
from serve_app.whisper.tokens import CheckpointError, SpecialTokens


@dataclass(frozen=True)
class ModelCard:
    """A checkpoint's abilities, read from its JSON files; torch is not imported.

    `id` is the name it is served under, `source` the folder or hub id its files come from.
    """

    id: str
    source: str
    tokens: SpecialTokens
    translates: bool

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO-639-1 codes it can detect and transcribe, sorted."""
        return tuple(sorted(self.tokens.languages)) or ("en",)

    @classmethod
    def load(cls, name: str) -> Self:
        """Read the card of an embedded model, a folder or a hub id (its JSON files are downloaded and cached).

        Raises OSError when there is no such checkpoint, CheckpointError when it is no usable Whisper.
        """
        source = model_source(name)
        config = _json(source, "config.json")
        if config.get("model_type") != "whisper":
            raise CheckpointError(f"{name} is a {config.get('model_type')!r} model: a Whisper checkpoint is needed")
        tokens = SpecialTokens.from_generation_config(_json(source, "generation_config.json"))
        return cls(id=name, source=source, tokens=tokens, translates=tokens.multilingual and not _pruned(config))

    def check(self, options: TranscriptionOptions) -> None:
        """Raise InvalidRequest, naming the field, for what this model can't do."""
        if options.language is not None and options.language not in self.languages:
            raise InvalidRequest(
                f"{self.id} does not know {language_name(options.language)} ({options.language}): "
                f"use one of {', '.join(self.languages)}"
                + (", or none to have it detected" if self.tokens.multilingual else ""),
                "language",
            )
        if options.task == "translate" and not self.translates:
            raise InvalidRequest(f"{self.id} can't translate: use task transcribe", "task")


def _json(source: str, file: str) -> dict[str, Any]:
    path = cached_file(source, file)
    if path is None:
        raise OSError(f"there is no {file} in {source}")
    return cast(dict[str, Any], json.loads(Path(path).read_text(encoding="utf-8")))


def _pruned(config: dict[str, Any]) -> bool:
    """Whether most decoder layers were cut away: OpenAI's turbo (4 of 32) and distil-whisper were
    then tuned on transcription alone, and answer `translate` in the spoken language."""
    return bool(config["decoder_layers"] * 2 < config["encoder_layers"])
