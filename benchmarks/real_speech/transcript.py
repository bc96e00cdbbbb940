"""The transcript of one recording, in the same format for every engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class TimedText(NamedTuple):
    """A segment or a word; times in seconds from the start of the recording."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class EngineTranscript:
    """A recording's transcript. `language`: ISO-639-1 code, None if the engine does not report it.

    `seconds`: wall time from the file to the text. `words`: empty if they were not requested.
    """

    text: str
    language: str | None
    segments: tuple[TimedText, ...]
    words: tuple[TimedText, ...] = ()
    seconds: float = 0.0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Create a transcript from JSON."""
        segments, words = (tuple(TimedText(*item) for item in fields[name]) for name in ("segments", "words"))
        return cls(fields["text"], fields["language"], segments, words, fields["seconds"])
