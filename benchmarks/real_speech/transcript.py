"""An engine's answer for one recording, the same for every engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class TimedText(NamedTuple):
    """A segment or a word, in seconds from the start of the recording."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class EngineTranscript:
    """A recording's text. `language`: ISO-639-1 code, null where the engine does not tell.

    `seconds`: from the path of the file to the text, by the wall clock. `words`: empty where none were asked for.
    """

    text: str
    language: str | None
    segments: tuple[TimedText, ...]
    words: tuple[TimedText, ...] = ()
    seconds: float = 0.0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From JSON."""
        segments, words = (tuple(TimedText(*item) for item in fields[name]) for name in ("segments", "words"))
        return cls(fields["text"], fields["language"], segments, words, fields["seconds"])
