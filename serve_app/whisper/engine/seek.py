"""The stretches of a window that are still to be decoded when a text ended before the speech did.

Whisper often closes a text early: with a pair of timestamps, where it expects the next segment to go on in the next
window, or after a segment although somebody speaks on. openai-whisper moves its `seek` to the last timestamp and
decodes from there; here the windows were cut before, so the rest of a window is decoded as one of its own.
"""

from collections.abc import Sequence

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, clip, subtract, total

LEAST_SPEECH = SAMPLE_RATE // 2
"""Less speech than this without a text is a matter of where timestamps are put, not of words."""

LEAST_SPEECH_BETWEEN = SAMPLE_RATE
"""The same between two segments: there an "um" is left out by intent, as Whisper was taught."""

NEAR = SAMPLE_RATE * 3 // 10
"""Silence after which speech no longer belongs to the segment before it."""

MAX_STRETCHES = 30
"""Of a window, one a second: a model that ends each text after a word or two does not hold its rows for ever."""

LEAD = SAMPLE_RATE // 5
"""Silence kept before speech that is decoded on its own."""


def remaining_clips(decoded: Span, covered: Sequence[Span], speech: Sequence[Span]) -> list[Span]:
    """Return the parts of a decoded stretch that hold speech but no text.

    That is more than `LEAST_SPEECH` of it behind the last segment, or `LEAST_SPEECH_BETWEEN` elsewhere. All in samples.
    `covered`: what the text's segments cover; `speech`: where speech was detected, in order. The parts are in order,
    lie within `decoded` between segments, and are shorter than it, so that decoding them ends some time: where the
    text covers nothing, nothing remains.
    """
    covered = clip(covered, decoded)
    if not covered:
        return []
    remaining = []
    for gap in subtract([decoded], covered):
        missed = clip(speech, gap)
        if total(missed) > (LEAST_SPEECH if gap.end == decoded.end else LEAST_SPEECH_BETWEEN):
            # A text that goes on in the middle of speech begins where the one before it ended.
            remaining.append(Span(max(gap.start, missed[0].start - LEAD), gap.end))
    return remaining


def speech_end(covered: Span, following: int, speech: Sequence[Span]) -> int:
    """Return where a segment's speech ends: with the speech right behind it, if that is too little to be decoded alone.

    Timestamps are often a little early, and an "um" behind a sentence is part of it. `following`: where the next
    segment begins, or the window ends. All in samples.
    """
    end = covered.end
    for stretch in clip(speech, Span(covered.end, following)):
        if stretch.start - end > NEAR:  # after a pause
            break
        end = stretch.end
    return end if end - covered.end <= LEAST_SPEECH_BETWEEN else covered.end


def uncovered_speech(speech: Sequence[Span], covered: Sequence[Span]) -> list[Span]:
    """Return the stretches of detected speech, longer than `LEAST_SPEECH`, that nothing covers."""
    return [span for span in subtract(speech, covered) if span.length > LEAST_SPEECH]
