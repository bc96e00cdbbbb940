"""From a window's token ids to timed text."""

import zlib
from collections.abc import Callable, Iterable, Sequence

from serve_app.options import Strict
from serve_app.whisper.tokens import SECONDS_PER_TIMESTAMP, SpecialTokens


class WindowSegment(Strict):
    """A stretch of text between two timestamps, in seconds from the start of its window.

    `tokens`: its text tokens, without the timestamps.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]


class WindowText(Strict):
    """What was said in one window.

    `language`: ISO-639-1 code, as given or as detected. `tokens`: everything generated, with
    timestamps, without the end token. `avg_logprob`: summed log-probability over tokens + 1, as
    in openai-whisper. `compression_ratio`: bytes of the text over its zlib-compressed bytes.
    `no_speech_prob`: probability of the no-speech token after `<|startoftranscript|>`.
    """

    language: str
    text: str
    segments: tuple[WindowSegment, ...]
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float = 0.0


def window_segments(
    tokens: Iterable[int], special: SpecialTokens, duration: float, decode: Callable[[Sequence[int]], str]
) -> tuple[WindowSegment, ...]:
    """Cut a window's tokens at its timestamps.

    Times lie within the window's `duration` (seconds) and never run back; text after the last
    timestamp ends with the window. `decode` turns text tokens into text.
    """
    segments: list[WindowSegment] = []
    text: list[int] = []
    start = 0.0

    def close(end: float) -> None:
        words = decode(text) if text else ""
        if words.strip():
            segments.append(WindowSegment(start=start, end=end, text=words, tokens=tuple(text)))
        text.clear()

    for token in tokens:
        if token >= special.first_timestamp:
            at = min(max(round((token - special.first_timestamp) * SECONDS_PER_TIMESTAMP, 2), start), duration)
            close(at)
            start = at
        elif token < special.end:
            text.append(token)
    close(duration)
    return tuple(segments)


def compression_ratio(text: str) -> float:
    """How repetitive a text is: its UTF-8 bytes over their zlib-compressed length."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
