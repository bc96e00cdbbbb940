"""The special tokens of a checkpoint, from its generation config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from serve_app.schemas.request import Task

SECONDS_PER_TIMESTAMP = 0.02
"""Difference between neighbouring timestamp tokens (Whisper paper, section 2.3)."""


class CheckpointError(ValueError):
    """The checkpoint can't be used: its files are incomplete, inconsistent or not Whisper's."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of Whisper's special tokens.

    Every Whisper vocabulary ends with `<|startofprev|> <|nospeech|> <|notimestamps|> <|0.00|> <|0.02|> …`, so the ids
    around `no_timestamps` follow from it. `languages` (by ISO-639-1 code) and `tasks` are empty for an English-only
    checkpoint, whose prefix is `<|startoftranscript|>` alone. `max_initial_timestamp_index`: the first timestamp is at
    most this many tokens after `<|0.00|>`; null for no limit.
    """

    start: int
    end: int
    no_timestamps: int
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    suppressed: tuple[int, ...]
    suppressed_at_begin: tuple[int, ...]
    max_initial_timestamp_index: int | None

    @property
    def start_of_prev(self) -> int:
        return self.no_timestamps - 2

    @property
    def no_speech(self) -> int:
        return self.no_timestamps - 1

    @property
    def first_timestamp(self) -> int:
        return self.no_timestamps + 1

    @property
    def is_multilingual(self) -> bool:
        return bool(self.languages)

    def language_code(self, token: int) -> str:
        """Return the ISO-639-1 code of a language token. Raises KeyError for other tokens."""
        return {token: code for code, token in self.languages.items()}[token]

    def prompt(self, max_tokens: int, *parts: Sequence[int]) -> tuple[int, ...]:
        """Return the prompt: `<|startofprev|>` and the tokens of some texts, or nothing if they are empty.

        Each part is truncated at its start to what the parts before it leave of `max_tokens`.
        """
        tokens: list[int] = []
        for part in parts:
            free = max_tokens - len(tokens)
            tokens += part[-free:] if free else []
        return (self.start_of_prev, *tokens) if tokens else ()

    def prefix(self, language: int | None, task: Task, with_timestamps: bool) -> tuple[int, ...]:
        """Return the start sequence: `<|startoftranscript|>`, language, task, and `<|notimestamps|>` if needed."""
        language_and_task = () if language is None else (language, self.tasks[task])
        return (self.start, *language_and_task, *(() if with_timestamps else (self.no_timestamps,)))

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Self:
        """Read `generation_config.json`. Raises CheckpointError, naming the missing keys, if it is incomplete."""
        missing = [
            key for key in ("decoder_start_token_id", "eos_token_id", "no_timestamps_token_id") if key not in config
        ]
        multilingual = bool(config.get("is_multilingual", "lang_to_id" in config))
        if multilingual:
            missing += [key for key in ("lang_to_id", "task_to_id") if not config.get(key)]
        if missing:
            raise CheckpointError(
                f"generation_config.json lacks {', '.join(missing)}: "
                "use the file of the Whisper model that this one was fine-tuned from"
            )
        return cls(
            start=config["decoder_start_token_id"],
            end=config["eos_token_id"],
            no_timestamps=config["no_timestamps_token_id"],
            languages={t.strip("<|>"): i for t, i in config["lang_to_id"].items()} if multilingual else {},
            tasks=dict(config["task_to_id"]) if multilingual else {},
            suppressed=tuple(config.get("suppress_tokens") or ()),
            suppressed_at_begin=tuple(config.get("begin_suppress_tokens") or ()),
            max_initial_timestamp_index=config.get("max_initial_timestamp_index"),
        )
