"""Temperature fallback: Whisper's thresholds for a window's text, and detection of repetition loops."""

from collections.abc import Sequence
from typing import Literal

from serve_app.schemas.request import TranscriptionOptions

TOKENS_PER_SECOND, EXTRA_TOKENS = 10, 20
"""A text with more tokens than this for its window is a loop and not speech, if it repeats itself: twice the rate of
the fastest speech in a Latin script, timestamps included, plus a margin."""

MIN_REPETITIONS = 4
MIN_REPEATED_TOKENS = 16
"""A text is a loop if it ends with at least `MIN_REPETITIONS` of the same tokens that are together at least
`MIN_REPEATED_TOKENS` long."""

MAX_PERIOD = 64
"""Maximum length in tokens of what a loop repeats."""

LITTLE_SPEECH_S = 1.0
"""With less detected speech than this, a window may be just a click, a note or a breath: see `fallback_verdict`."""

LITTLE_SPEECH_FACTOR = 2 / 3
"""Factor of the no-speech threshold for such windows: spoken words stayed below 0.3, clicks reached 0.49."""

Verdict = Literal["good", "silence", "failed"]


def max_speech_tokens(seconds: float) -> int:
    """Return the number of tokens above which the text of a window of this length is checked for repetition."""
    return EXTRA_TOKENS + round(TOKENS_PER_SECOND * seconds)


def fallback_verdict(
    options: TranscriptionOptions,
    avg_logprob: float,
    compression_ratio: float,
    no_speech_prob: float,
    is_repetitive: bool,
    speech_s: float | None = None,
    is_remaining_clip: bool = False,
) -> Verdict:
    """Decide whether a text is accepted, is silence, or must be decoded again at the next temperature.

    As in openai-whisper's `decode_with_fallback` and its skipping of silence. `speech_s`: seconds of detected speech,
    null if not known. A text is silence if its no-speech probability is high and its log-probability is
    low, as the former alone is often wrong. With hardly any detected speech one of the two is enough: for sounds
    without words Whisper writes "Thanks for watching!" with a no-speech probability of 0.5 to 0.9 and a
    log-probability of -0.7 to -1.4; single spoken words have 0 to 0.3 and -0.3 to -0.9.

    `is_remaining_clip`: the clip is a part of a window that an earlier text left out. In clips of this kind that
    contained speech, the no-speech probability was at most 0.12; for coughs and hesitation it was 0.37 to 0.79: half of
    the threshold separates them.
    """
    threshold = options.no_speech_threshold
    is_unlikely = options.logprob_threshold is not None and avg_logprob < options.logprob_threshold
    if threshold is not None:
        if no_speech_prob > threshold and (is_unlikely or options.logprob_threshold is None):
            return "silence"
        if is_remaining_clip and no_speech_prob > threshold / 2:
            return "silence"
        has_little_speech = speech_s is not None and speech_s < LITTLE_SPEECH_S
        if has_little_speech and (is_unlikely or no_speech_prob > LITTLE_SPEECH_FACTOR * threshold):
            return "silence"
    is_compressible = (
        options.compression_ratio_threshold is not None and compression_ratio > options.compression_ratio_threshold
    )
    return "failed" if is_unlikely or is_compressible or is_repetitive else "good"


def repetition_period(text: Sequence[int]) -> int | None:
    """Return the length in tokens of the phrase that a text repeats at its end; null if it does not repeat itself."""
    for length in range(1, min(MAX_PERIOD, len(text) // MIN_REPETITIONS) + 1):
        span = max(MIN_REPETITIONS * length, MIN_REPEATED_TOKENS)
        if len(text) >= span and all(text[-i] == text[-i - length] for i in range(1, span - length + 1)):
            return length
    return None


def trim_repetition(tokens: Sequence[int], end: int) -> tuple[int, ...]:
    """Return the tokens of a repetitive text up to the end of the first occurrence of the repeated phrase.

    Text tokens are those below `end`; timestamps are ignored when looking for repetition.
    """
    indices = [index for index, token in enumerate(tokens) if token < end]
    text = [tokens[index] for index in indices]
    length = repetition_period(text)
    if length is None:
        return tuple(tokens)
    start = len(text) - length
    while start > 0 and text[start - 1] == text[start - 1 + length]:
        start -= 1
    return tuple(tokens[: indices[start + length - 1] + 1])
