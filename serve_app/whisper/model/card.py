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
    """The capabilities of a checkpoint, read from its JSON files without importing torch.

    `id`: the id the model is served under. `source`: the folder or hub id of its files. `can_translate`: whether it
    supports the task `translate`. `positions`: those of the decoder. `alignment_heads`: the (layer, head) pairs whose
    cross-attention gives word timestamps. `median_filter`: width of the filter that smooths their attention.
    `beam_size`: the default, `num_beams` of the generation config.
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
        """ISO-639-1 codes of the languages it can detect and transcribe, sorted."""
        return tuple(sorted(self.tokens.languages)) or ("en",)

    @classmethod
    def load(cls, name: str, id: str | None = None) -> Self:
        """Read the card of an embedded model, a folder or a hub id, whose JSON files are downloaded and cached.

        `id`: null if the model is served under `name`. Raises OSError if the checkpoint does not exist, and
        CheckpointError if it is not a usable Whisper checkpoint.
        """
        source = model_source(name)
        config = read_json(source, "config.json")
        if config.get("model_type") != "whisper":
            raise CheckpointError(f"{name} is a {config.get('model_type')!r} model: use a Whisper checkpoint")
        generation = read_json(source, "generation_config.json")
        return cls.from_config(id or name, source, config, generation)

    @classmethod
    def from_config(cls, name: str, source: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Self:
        """Make the card of a checkpoint from its `config.json` and `generation_config.json`."""
        tokens = SpecialTokens.from_generation_config(generation)
        layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
        # The default is all heads of the upper half of the layers, as in openai-whisper.
        upper_half = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
        return cls(
            id=name,
            source=source,
            tokens=tokens,
            can_translate=tokens.is_multilingual and not _is_pruned(config),
            vocabulary=config["vocab_size"],
            positions=config["max_target_positions"],
            alignment_heads=tuple((layer, head) for layer, head in generation.get("alignment_heads") or upper_half),
            median_filter=config.get("median_filter_width", 7),
            beam_size=min(generation.get("num_beams") or 1, MAX_HYPOTHESES),
        )

    @property
    def max_prompt_tokens(self) -> int:
        """Maximum number of prompt tokens: half of the decoder's positions, minus one (223 of 448)."""
        return self.positions // 2 - 1

    def validate_options(self, options: TranscriptionOptions) -> None:
        """Raise InvalidRequest, naming the field, for an option that this model does not support."""
        if options.language is not None and options.language not in self.languages:
            raise InvalidRequest(
                f"{self.id} does not support {language_name(options.language)} ({options.language}): "
                f"use one of {', '.join(self.languages)}"
                + (", or omit it to have it detected" if self.tokens.is_multilingual else ""),
                "language",
            )
        if options.task == "translate" and not self.can_translate:
            raise InvalidRequest(f"{self.id} does not support the task 'translate': use 'transcribe'", "task")
        for token in options.suppress_tokens:
            if token >= self.vocabulary:
                raise InvalidRequest(
                    f"suppress_tokens: {token} is not a token of {self.id}, which has 0 to {self.vocabulary - 1}",
                    "suppress_tokens",
                )
        limit = self._max_text_tokens(options)
        if options.max_new_tokens is not None and options.max_new_tokens > limit:
            raise InvalidRequest(
                f"max_new_tokens must be at most {limit}: {self.id} has {self.positions} positions, "
                "and the other options use the rest",
                "max_new_tokens",
            )

    def _max_text_tokens(self, options: TranscriptionOptions) -> int:
        """Return the maximum number of tokens of a window's text, after the longest prompt that the options allow."""
        has_prompt = options.prompt or options.initial_prompt or options.hotwords or options.condition_on_previous_text
        start_tokens = 4 if self.tokens.is_multilingual else 2  # the maximum length of SpecialTokens.prefix
        return self.positions - start_tokens - (1 + self.max_prompt_tokens if has_prompt else 0)


def _is_pruned(config: Mapping[str, Any]) -> bool:
    """Return whether most decoder layers were removed.

    OpenAI's turbo (4 of 32 layers) and distil-whisper were then fine-tuned on transcription only: for the task
    `translate` they return text in the spoken language.
    """
    return bool(config["decoder_layers"] * 2 < config["encoder_layers"])
