"""Is a window's text any good? Whisper's thresholds, and the cut of a text that repeats itself for ever."""

from collections.abc import Sequence
from typing import Literal

from serve_app.options import TranscriptionOptions

TOKENS_PER_SECOND, TOKENS_BESIDES = 10, 20
"""More tokens than this in a window are not speech but a loop, if they repeat: twice the densest speech of a
Latin script (timestamps included) and some."""

LEAST_REPEATS = 4
LEAST_REPEATED = 16
"""A tail that says the same at least so many times, in at least so many tokens, is a loop."""

LONGEST_PERIOD = 64

LITTLE_SPEECH_S = 1.0
"""Where less speech was detected, it may be a click, a note or a breath: see `judge`."""

Verdict = Literal["good", "silence", "failed"]


def max_speech_tokens(seconds: float) -> int:
    """Tokens that may be written for so many seconds of sound before repetition is looked for."""
    return TOKENS_BESIDES + round(TOKENS_PER_SECOND * seconds)


def fallback_verdict(
    options: TranscriptionOptions,
    avg_logprob: float,
    compression_ratio: float,
    no_speech_prob: float,
    is_repetitive: bool,
    speech_s: float | None = None,
    is_rest: bool = False,
) -> Verdict:
    """openai-whisper's `decode_with_fallback` and its skipping of silence, in one.

    `speech_s`: seconds of detected speech, null where none was looked for. It takes a low log-probability beside the
    no-speech token to make a text silence, as that token alone is often wrong. Where there is hardly any speech either
    is enough: on sounds without a word Whisper writes "Thanks for watching!" with a no-speech probability of 0.5 to 0.9
    and a log-probability of -0.7 to -1.4, where single words that were spoken have 0 to 0.3 and -0.3 to -0.9.

    `is_rest`: another text has left this stretch out. Of real speech such rests had a no-speech probability of up to
    0.12, of coughs and hesitation 0.37 to 0.79: half of the threshold tells them apart.
    """
    unlikely = options.logprob_threshold is not None and avg_logprob < options.logprob_threshold
    silent = options.no_speech_threshold is not None and no_speech_prob > options.no_speech_threshold
    if silent and (unlikely or options.logprob_threshold is None):
        return "silence"
    if is_rest and options.no_speech_threshold is not None and no_speech_prob > options.no_speech_threshold / 2:
        return "silence"
    little = options.no_speech_threshold is not None and speech_s is not None and speech_s < LITTLE_SPEECH_S
    if little and (silent or unlikely):
        return "silence"
    repetitive = (
        options.compression_ratio_threshold is not None and compression_ratio > options.compression_ratio_threshold
    )
    return "failed" if unlikely or repetitive or is_repetitive else "good"


def repetition_period(text: Sequence[int]) -> int | None:
    """The length of what the tail of some text tokens says over and over; null when it does not."""
    for length in range(1, min(LONGEST_PERIOD, len(text) // LEAST_REPEATS) + 1):
        span = max(LEAST_REPEATS * length, LEAST_REPEATED)
        if len(text) >= span and all(text[-i] == text[-i - length] for i in range(1, span - length + 1)):
            return length
    return None


def trim_repetition(tokens: Sequence[int], end: int) -> tuple[int, ...]:
    """The tokens of a text in a loop up to the end of the first time it says the same.

    Text tokens are those below `end`; rising timestamps among them do not hide a loop.
    """
    places = [place for place, token in enumerate(tokens) if token < end]
    text = [tokens[place] for place in places]
    length = repetition_period(text)
    if length is None:
        return tuple(tokens)
    start = len(text) - length
    while start > 0 and text[start - 1] == text[start - 1 + length]:
        start -= 1
    return tuple(tokens[: places[start + length - 1] + 1])
