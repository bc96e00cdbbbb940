"""From a window's token ids to timed text."""

import zlib
from collections.abc import Callable, Sequence
from typing import Self

from serve_app.schemas.request import StrictModel
from serve_app.schemas.transcript import TokenLogprob, Word
from serve_app.whisper.model.tokens import SECONDS_PER_TIMESTAMP, SpecialTokens

PROMPT_RESET_TEMPERATURE = 0.5
"""Text found at a higher temperature is not handed on to the next window (openai-whisper's `transcribe`)."""

MAX_PROMPT_TOKENS = 224
"""Tokens: half a Whisper decoder's positions; more never go before a text."""


class WindowSegment(StrictModel):
    """A stretch of text between two timestamps, in seconds from the start of its window.

    `tokens`: its text tokens, without the timestamps. `logprobs`: theirs,
    and `words`, when they were asked for.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    words: tuple[Word, ...] | None = None

    def moved(self, seconds: float) -> Self:
        """Return the same segment, and its words, so many seconds later."""
        words = None if self.words is None else tuple(word.moved(seconds) for word in self.words)
        times = {"start": round(self.start + seconds, 3), "end": round(self.end + seconds, 3)}
        return self.model_copy(update={**times, "words": words})


class WindowText(StrictModel):
    """The text of one window.

    `language`: ISO-639-1 code, as given or as detected. `tokens`: everything generated, with
    timestamps, without the end token. `avg_logprob`: summed log-probability over tokens + 1, as
    in openai-whisper. `compression_ratio`: bytes of the text over its zlib-compressed bytes.
    `no_speech_prob`: probability of the no-speech token after `<|startoftranscript|>`.

    `start`: seconds from the start of the window at which the sound it was decoded from begins. `rest`: the texts of
    stretches of the window that this one leaves out, each decoded on its own.
    """

    language: str
    text: str
    segments: tuple[WindowSegment, ...]
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float = 0.0
    start: float = 0.0
    rest: tuple["WindowText", ...] = ()

    @property
    def parts(self) -> tuple["WindowText", ...]:
        """This text and those of the rest, as they were decoded."""
        return (self, *self.rest)

    @property
    def timed_segments(self) -> list[tuple[WindowSegment, "WindowText"]]:
        """All segments of the window in the order of their times, each with the text it belongs to."""
        found = [(segment, part) for part in self.parts for segment in part.segments]
        return sorted(found, key=lambda pair: pair[0].start)

    @property
    def without_symbol_segments(self) -> "WindowText":
        """The text without segments of dots or notes alone, which stand for sound and not for speech."""
        segments = tuple(segment for segment in self.segments if any(map(str.isalnum, segment.text)))
        if len(segments) == len(self.segments):
            return self
        text = "".join(segment.text for segment in segments).strip()
        return self.model_copy(update={"segments": segments, "text": text})

    def moved(self, seconds: float) -> "WindowText":
        """Return the same text decoded so many seconds later in the window."""
        if not seconds:
            return self
        segments = tuple(segment.moved(seconds) for segment in self.segments)
        return self.model_copy(update={"start": self.start + seconds, "segments": segments})


def window_segments(
    tokens: Sequence[int],
    special: SpecialTokens,
    duration: float,
    decode: Callable[[Sequence[int]], str],
    logprobs: Sequence[TokenLogprob] | None = None,
) -> tuple[WindowSegment, ...]:
    """Cut a window's tokens at its timestamps.

    Times lie within the window's `duration` (seconds) and never run back; text after the last
    timestamp ends with the window. `decode` turns text tokens into text. `logprobs`, one of each
    token, are put beside the segments' tokens.
    """
    segments: list[WindowSegment] = []
    text: list[int] = []  # places of the tokens
    start = 0.0

    def close(end: float) -> None:
        ids = tuple(tokens[place] for place in text)
        words = decode(ids) if ids else ""
        if words.strip():
            likely = None if logprobs is None else tuple(logprobs[place] for place in text)
            segments.append(WindowSegment(start=start, end=end, text=words, tokens=ids, logprobs=likely))
        text.clear()

    for place, token in enumerate(tokens):
        if token >= special.first_timestamp:
            at = min(max(round((token - special.first_timestamp) * SECONDS_PER_TIMESTAMP, 2), start), duration)
            close(at)
            start = at
        elif token < special.end:
            text.append(place)
    close(duration)
    return tuple(segments)


def compression_ratio(text: str) -> float:
    """Return the compression ratio of a text: its UTF-8 bytes over their zlib-compressed length."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def next_prompt_tokens(previous: Sequence[int], text: WindowText) -> tuple[int, ...]:
    """Return the prompt tokens of the next window: the text so far, or none after decoding at a high temperature."""
    for part in text.parts:
        previous = () if part.temperature > PROMPT_RESET_TEMPERATURE else (*previous, *part.tokens)[-MAX_PROMPT_TOKENS:]
    return tuple(previous)
