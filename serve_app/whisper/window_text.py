"""The text of a window: segments with times, made from its tokens."""

import zlib
from collections.abc import Callable, Sequence
from typing import Self

from serve_app.schemas.request import StrictModel
from serve_app.schemas.transcript import TokenLogprob, Word
from serve_app.whisper.model.tokens import SECONDS_PER_TIMESTAMP, SpecialTokens

PROMPT_RESET_TEMPERATURE = 0.5
"""Text decoded at a higher temperature is not part of the next window's prompt (openai-whisper's `transcribe`)."""

MAX_PROMPT_TOKENS = 224
"""Maximum number of tokens of a prompt: half of the decoder's positions."""


class WindowSegment(StrictModel):
    """The text between two timestamps, which are in seconds from the start of the window.

    `tokens`: its text tokens, without timestamps. `logprobs` of the tokens, and `words`: null if not requested.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    words: tuple[Word, ...] | None = None

    def moved(self, seconds: float) -> Self:
        """Return the segment, and its words, shifted by a number of seconds."""
        words = None if self.words is None else tuple(word.moved(seconds) for word in self.words)
        times = {"start": round(self.start + seconds, 3), "end": round(self.end + seconds, 3)}
        return self.model_copy(update={**times, "words": words})


class WindowText(StrictModel):
    """The text of one window.

    `language`: ISO-639-1 code, requested or detected. `tokens`: all generated tokens, with timestamps, without the end
    token. `avg_logprob`: sum of log-probabilities divided by the number of tokens + 1, as in openai-whisper.
    `compression_ratio`: bytes of the text divided by its zlib-compressed length. `no_speech_prob`: probability of the
    no-speech token after `<|startoftranscript|>`.

    `start`: start of the clip that was decoded, in seconds from the start of the window. `rest`: texts of the window's
    other clips, whose speech this text leaves out.
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
        """This text and those in `rest`, in the order of decoding."""
        return (self, *self.rest)

    @property
    def timed_segments(self) -> list[tuple[WindowSegment, "WindowText"]]:
        """All segments of the window in order of time, each with the text it belongs to."""
        segments = [(segment, part) for part in self.parts for segment in part.segments]
        return sorted(segments, key=lambda pair: pair[0].start)

    @property
    def without_symbol_segments(self) -> "WindowText":
        """The text without segments that consist of dots or notes only, which stand for sounds other than speech."""
        segments = tuple(segment for segment in self.segments if any(map(str.isalnum, segment.text)))
        if len(segments) == len(self.segments):
            return self
        text = "".join(segment.text for segment in segments).strip()
        return self.model_copy(update={"segments": segments, "text": text})

    def moved(self, seconds: float) -> "WindowText":
        """Return the text shifted by a number of seconds within the window."""
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
    """Split a window's tokens into segments at its timestamps.

    Times lie within the window's `duration` in seconds and never decrease; text after the last timestamp ends with the
    window. `decode`: converts text tokens to text. `logprobs`: one per token, copied to the segments.
    """
    segments: list[WindowSegment] = []
    text: list[int] = []  # indices of the current segment's tokens
    start = 0.0

    def close(end: float) -> None:
        ids = tuple(tokens[index] for index in text)
        segment_text = decode(ids) if ids else ""
        if segment_text.strip():
            text_logprobs = None if logprobs is None else tuple(logprobs[index] for index in text)
            segments.append(WindowSegment(start=start, end=end, text=segment_text, tokens=ids, logprobs=text_logprobs))
        text.clear()

    for index, token in enumerate(tokens):
        if token >= special.first_timestamp:
            end = min(max(round((token - special.first_timestamp) * SECONDS_PER_TIMESTAMP, 2), start), duration)
            close(end)
            start = end
        elif token < special.end:
            text.append(index)
    close(duration)
    return tuple(segments)


def compression_ratio(text: str) -> float:
    """Return the compression ratio of a text: its length in UTF-8 divided by the zlib-compressed length."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def next_prompt_tokens(previous: Sequence[int], text: WindowText) -> tuple[int, ...]:
    """Return the previous-text tokens for the next window; none after decoding at a high temperature."""
    for part in text.parts:
        previous = () if part.temperature > PROMPT_RESET_TEMPERATURE else (*previous, *part.tokens)[-MAX_PROMPT_TOKENS:]
    return tuple(previous)
