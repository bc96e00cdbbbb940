"""The stretches of a window that are still to be decoded when a text ended before the speech did.

Whisper often closes a text early: with a pair of timestamps, where it expects the next segment to go on in the next
window, or after a segment although somebody speaks on. openai-whisper moves its `seek` to the last timestamp and
decodes from there; here the windows were cut before, so the rest of a window is decoded as one of its own.
"""

from collections.abc import Sequence

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, clip_spans, subtract_spans, total_length

MIN_UNCOVERED_SAMPLES = SAMPLE_RATE // 2
"""Less speech than this without a text is a matter of where timestamps are put, not of words."""

MIN_UNCOVERED_BETWEEN_SAMPLES = SAMPLE_RATE
"""The same between two segments: there an "um" is left out by intent, as Whisper was taught."""

MAX_GAP_SAMPLES = SAMPLE_RATE * 3 // 10
"""Silence after which speech no longer belongs to the segment before it."""

MAX_CLIPS = 30
"""Of a window, one a second: a model that ends each text after a word or two does not hold its rows for ever."""

LEAD_IN_SAMPLES = SAMPLE_RATE // 5
"""Silence kept before speech that is decoded on its own."""


def remaining_clips(decoded: Span, covered: Sequence[Span], speech: Sequence[Span]) -> list[Span]:
    """Return the parts of a decoded stretch that hold speech but no text.

    That is more than `LEAST_SPEECH` of it behind the last segment, or `LEAST_SPEECH_BETWEEN` elsewhere. All in samples.
    `covered`: what the text's segments cover; `speech`: where speech was detected, in order. The parts are in order,
    lie within `decoded` between segments, and are shorter than it, so that decoding them ends some time: where the
    text covers nothing, nothing remains.
    """
    covered = clip_spans(covered, decoded)
    if not covered:
        return []
    remaining = []
    for gap in subtract_spans([decoded], covered):
        missed = clip_spans(speech, gap)
        if total_length(missed) > (MIN_UNCOVERED_SAMPLES if gap.end == decoded.end else MIN_UNCOVERED_BETWEEN_SAMPLES):
            # A text that goes on in the middle of speech begins where the one before it ended.
            remaining.append(Span(max(gap.start, missed[0].start - LEAD_IN_SAMPLES), gap.end))
    return remaining


def speech_end(covered: Span, next_start: int, speech: Sequence[Span]) -> int:
    """Return where a segment's speech ends: with the speech right behind it, if that is too little to be decoded alone.

    Timestamps are often a little early, and an "um" behind a sentence is part of it. `following`: where the next
    segment begins, or the window ends. All in samples.
    """
    end = covered.end
    for stretch in clip_spans(speech, Span(covered.end, next_start)):
        if stretch.start - end > MAX_GAP_SAMPLES:  # after a pause
            break
        end = stretch.end
    return end if end - covered.end <= MIN_UNCOVERED_BETWEEN_SAMPLES else covered.end


def uncovered_speech(speech: Sequence[Span], covered: Sequence[Span]) -> list[Span]:
    """Return the stretches of detected speech, longer than `LEAST_SPEECH`, that nothing covers."""
    return [span for span in subtract_spans(speech, covered) if span.length > MIN_UNCOVERED_SAMPLES]
