"""Temperature fallback: Whisper's thresholds for a window's text, and detection of repetition loops."""

from collections.abc import Sequence
from typing import Literal

from serve_app.schemas.request import TranscriptionOptions

TOKENS_PER_SECOND, TOKENS_BESIDES = 10, 20
"""More tokens than this in a window, if they repeat, are a loop and not speech: twice the rate of the fastest speech in
a Latin script, timestamps included, plus a margin."""

LEAST_REPEATS = 4
LEAST_REPEATED = 16
"""A text is a loop if it ends with at least so many repetitions of the same tokens, of at least so many tokens."""

LONGEST_PERIOD = 64

LITTLE_SPEECH_S = 1.0
"""With less detected speech than this, the sound may be a click, a note or a breath: see `fallback_verdict`."""

LITTLE_SPEECH_SHARE = 2 / 3
"""The share of the no-speech threshold that counts there: spoken words stayed below 0.3, clicks reached 0.49."""

Verdict = Literal["good", "silence", "failed"]


def max_speech_tokens(seconds: float) -> int:
    """Return the number of tokens of a window of this length beyond which repetition is checked."""
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
    """Decide whether a text is accepted, is silence, or must be decoded again at the next temperature.

    As openai-whisper's `decode_with_fallback` and its skipping of silence. `speech_s`: seconds of detected speech, null
    if it was not looked for. Silence takes a high no-speech probability and a low log-probability, as the former alone
    is often wrong. With hardly any detected speech one of the two is enough: on sounds without words Whisper writes
    "Thanks for watching!" with a no-speech probability of 0.5 to 0.9 and a log-probability of -0.7 to -1.4; single
    spoken words have 0 to 0.3 and -0.3 to -0.9.

    `is_rest`: the stretch was left out by the text before it. Where such stretches held speech, the no-speech
    probability was at most 0.12; for coughs and hesitation it was 0.37 to 0.79: half of the threshold separates them.
    """
    threshold = options.no_speech_threshold
    unlikely = options.logprob_threshold is not None and avg_logprob < options.logprob_threshold
    if threshold is not None:
        if no_speech_prob > threshold and (unlikely or options.logprob_threshold is None):
            return "silence"
        if is_rest and no_speech_prob > threshold / 2:
            return "silence"
        little = speech_s is not None and speech_s < LITTLE_SPEECH_S
        if little and (unlikely or no_speech_prob > LITTLE_SPEECH_SHARE * threshold):
            return "silence"
    repetitive = (
        options.compression_ratio_threshold is not None and compression_ratio > options.compression_ratio_threshold
    )
    return "failed" if unlikely or repetitive or is_repetitive else "good"


def repetition_period(text: Sequence[int]) -> int | None:
    """Return the length in tokens of what a text repeats at its end; null if it does not repeat itself."""
    for length in range(1, min(LONGEST_PERIOD, len(text) // LEAST_REPEATS) + 1):
        span = max(LEAST_REPEATS * length, LEAST_REPEATED)
        if len(text) >= span and all(text[-i] == text[-i - length] for i in range(1, span - length + 1)):
            return length
    return None


def trim_repetition(tokens: Sequence[int], end: int) -> tuple[int, ...]:
    """Return the tokens of a repetitive text up to the end of its first repetition.

    Text tokens are those below `end`; timestamps are ignored when looking for repetition.
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
