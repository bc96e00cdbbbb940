"""The capabilities of a Whisper checkpoint, read without loading its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from serve_app.errors import InvalidRequest
from serve_app.models import model_source
from serve_app.schemas.languages import language_name
from serve_app.schemas.request import MAX_HYPOTHESES, TranscriptionOptions
from serve_app.whisper.model.checkpoint import read_json
from serve_app.whisper.model.tokens import CheckpointError, SpecialTokens


@dataclass(frozen=True)
class ModelCard:
    """A checkpoint's abilities, read from its JSON files; torch is not imported.

    `id` is the name it is served under, `source` the folder or hub id its files come from. `positions` are
    the decoder's, `alignment_heads` its layers and heads that follow the sound word by word, and
    `median_filter` what transformers smooths their attention with. `beam_size`: beams where a client does not say how
    many, `num_beams` of its generation config.
    """

    id: str
    source: str
    tokens: SpecialTokens
    can_translate: bool
    vocabulary: int
    positions: int
    alignment_heads: tuple[tuple[int, int], ...]
    median_filter: int
    beam_size: int

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO-639-1 codes it can detect and transcribe, sorted."""
        return tuple(sorted(self.tokens.languages)) or ("en",)

    @classmethod
    def load(cls, name: str, id: str | None = None) -> Self:
        """Read the card of an embedded model, a folder or a hub id (its JSON files are downloaded and cached).
        `id`: null, where it is served under that very name.

        Raises OSError when there is no such checkpoint, CheckpointError when it is no usable Whisper.
        """
        source = model_source(name)
        config = read_json(source, "config.json")
        if config.get("model_type") != "whisper":
            raise CheckpointError(f"{name} is a {config.get('model_type')!r} model: a Whisper checkpoint is needed")
        generation = read_json(source, "generation_config.json")
        return cls.from_config(id or name, source, config, generation)

    @classmethod
    def from_config(cls, name: str, source: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Self:
        """The card of a checkpoint with these `config.json` and `generation_config.json`."""
        tokens = SpecialTokens.from_generation_config(generation)
        layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
        # Without a list, all heads of the upper half, as openai-whisper has it.
        upper = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
        return cls(
            id=name,
            source=source,
            tokens=tokens,
            can_translate=tokens.is_multilingual and not _is_pruned(config),
            vocabulary=config["vocab_size"],
            positions=config["max_target_positions"],
            alignment_heads=tuple((layer, head) for layer, head in generation.get("alignment_heads") or upper),
            median_filter=config.get("median_filter_width", 7),
            beam_size=min(generation.get("num_beams") or 1, MAX_HYPOTHESES),
        )

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that may go before a window's own: half the decoder, less one (223 of 448)."""
        return self.positions // 2 - 1

    def validate_options(self, options: TranscriptionOptions) -> None:
        """Raise InvalidRequest, naming the field, for what this model can't do."""
        if options.language is not None and options.language not in self.languages:
            raise InvalidRequest(
                f"{self.id} does not support {language_name(options.language)} ({options.language}): "
                f"use one of {', '.join(self.languages)}"
                + (", or none to have it detected" if self.tokens.is_multilingual else ""),
                "language",
            )
        if options.task == "translate" and not self.can_translate:
            raise InvalidRequest(f"{self.id} can't translate: use task transcribe", "task")
        for token in options.suppress_tokens:
            if token >= self.vocabulary:
                raise InvalidRequest(
                    f"{self.id} has tokens 0 to {self.vocabulary - 1}: there is no {token}", "suppress_tokens"
                )
        room = self._max_text_tokens(options)
        if options.max_new_tokens is not None and options.max_new_tokens > room:
            raise InvalidRequest(
                f"max_new_tokens must be at most {room}: {self.id} has {self.positions} positions, "
                "and the other options use the rest",
                "max_new_tokens",
            )

    def _max_text_tokens(self, options: TranscriptionOptions) -> int:
        """Tokens a window's text may have, when what goes before takes all it may."""
        has_prompt = options.prompt or options.initial_prompt or options.hotwords or options.condition_on_previous_text
        steering = 4 if self.tokens.is_multilingual else 2  # the tokens of SpecialTokens.prefix at most
        return self.positions - steering - (1 + self.max_prompt_tokens if has_prompt else 0)


def _is_pruned(config: Mapping[str, Any]) -> bool:
    """Return whether most decoder layers were removed: OpenAI's turbo (4 of 32) and distil-whisper were
    then tuned on transcription alone, and answer `translate` in the spoken language."""
    return bool(config["decoder_layers"] * 2 < config["encoder_layers"])
