"""Find the parts of a window (clips) that are still to be decoded because a text left out speech. Pure.

Whisper often ends a text early: with a pair of timestamps, when it expects the segment to continue in the next window,
or after a segment although speech goes on. openai-whisper moves its `seek` to the last timestamp and decodes from
there. Here windows are cut beforehand, so the rest of a window is decoded separately, as a clip.
"""

from collections.abc import Sequence

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, clip_spans, subtract_spans, total_length

MIN_UNCOVERED_SAMPLES = SAMPLE_RATE // 2
"""Less uncovered speech than this at the end of a clip is caused by imprecise timestamps, not by missing words."""

MIN_UNCOVERED_BETWEEN_SAMPLES = SAMPLE_RATE
"""The same between two segments, where Whisper leaves out an "um" on purpose, as it was trained to."""

MAX_GAP_SAMPLES = SAMPLE_RATE * 3 // 10
"""Speech after a longer silence than this does not belong to the segment before it."""

MAX_CLIPS = 30
"""Maximum number of clips of a window, one per second: limits the time that a model takes which ends each text after a
word or two."""

LEAD_IN_SAMPLES = SAMPLE_RATE // 5
"""Silence kept before the speech of a clip."""


def remaining_clips(decoded: Span, covered: Sequence[Span], speech: Sequence[Span]) -> list[Span]:
    """Return the parts of a decoded clip that contain speech but have no text. All in samples.

    `covered`: the spans of the text's segments. `speech`: detected speech, in order. A part is returned if it contains
    more than `MIN_UNCOVERED_SAMPLES` of speech after the last segment, or `MIN_UNCOVERED_BETWEEN_SAMPLES` elsewhere.
    Parts are in order, and shorter than `decoded`, so that repeated decoding ends: if the text covers nothing, nothing
    is returned.
    """
    covered = clip_spans(covered, decoded)
    if not covered:
        return []
    remaining = []
    for gap in subtract_spans([decoded], covered):
        uncovered = clip_spans(speech, gap)
        if total_length(uncovered) > (
            MIN_UNCOVERED_SAMPLES if gap.end == decoded.end else MIN_UNCOVERED_BETWEEN_SAMPLES
        ):
            # In the middle of speech, the next clip begins where the text before it ended.
            remaining.append(Span(max(gap.start, uncovered[0].start - LEAD_IN_SAMPLES), gap.end))
    return remaining


def speech_end(covered: Span, next_start: int, speech: Sequence[Span]) -> int:
    """Return the end of a segment, extended by the speech right after it if that is too short to be decoded separately.

    Timestamps are often a little early, and an "um" after a sentence is part of it. `next_start`: the start of the next
    segment, or the end of the window. All in samples.
    """
    end = covered.end
    for span in clip_spans(speech, Span(covered.end, next_start)):
        if span.start - end > MAX_GAP_SAMPLES:  # after a pause
            break
        end = span.end
    return end if end - covered.end <= MIN_UNCOVERED_BETWEEN_SAMPLES else covered.end


def uncovered_speech(speech: Sequence[Span], covered: Sequence[Span]) -> list[Span]:
    """Return the spans of detected speech, longer than `MIN_UNCOVERED_SAMPLES`, that no segment covers."""
    return [span for span in subtract_spans(speech, covered) if span.length > MIN_UNCOVERED_SAMPLES]
