"""A checkpoint's special tokens, from its generation config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from serve_app.schemas.request import Task

SECONDS_PER_TIMESTAMP = 0.02
"""Neighbouring timestamp tokens are this far apart (Whisper paper, section 2.3)."""


class CheckpointError(ValueError):
    """The checkpoint's files lack what decoding needs."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that steer Whisper's decoder.

    Every Whisper vocabulary ends `<|startofprev|> <|nospeech|> <|notimestamps|> <|0.00|> <|0.02|> …`,
    so the ids around `no_timestamps` follow from it. `languages` (by ISO-639-1 code) and `tasks`
    are empty for an English-only checkpoint, whose prefix is `<|startoftranscript|>` alone.
    `max_initial_timestamp_index` counts timestamp tokens after `<|0.00|>`; null: no limit.
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
        """The ISO-639-1 code of a language token; KeyError when it is none."""
        return {token: code for code, token in self.languages.items()}[token]

    def prompt(self, room: int, *parts: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens before `<|startoftranscript|>`: `<|startofprev|>` and some texts, or nothing.

        Of each the last tokens, as many as those before it leave of `room`.
        """
        kept: list[int] = []
        for part in parts:
            left = room - len(kept)
            kept += part[-left:] if left else []
        return (self.start_of_prev, *kept) if kept else ()

    def prefix(self, language: int | None, task: Task, with_timestamps: bool) -> tuple[int, ...]:
        """Return the start tokens: `<|startoftranscript|>`, language, task, and `<|notimestamps|>` if requested."""
        steering = () if language is None else (language, self.tasks[task])
        return (self.start, *steering, *(() if with_timestamps else (self.no_timestamps,)))

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Self:
        """Read `generation_config.json`; CheckpointError names what it lacks."""
        missing = [
            key for key in ("decoder_start_token_id", "eos_token_id", "no_timestamps_token_id") if key not in config
        ]
        multilingual = bool(config.get("is_multilingual", "lang_to_id" in config))
        if multilingual:
            missing += [key for key in ("lang_to_id", "task_to_id") if not config.get(key)]
        if missing:
            raise CheckpointError(
                f"generation_config.json lacks {', '.join(missing)}: "
                "take the one of the Whisper model that this one was tuned from"
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
