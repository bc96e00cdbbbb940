"""Speech that a text leaves out is decoded in clips, exactly once, however texts end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.spans import Span, clip_spans, subtract_spans, total_length
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.seek import (
    LEAD_IN_SAMPLES,
    MAX_CLIPS,
    MIN_UNCOVERED_BETWEEN_SAMPLES,
    remaining_clips,
    speech_end,
    uncovered_speech,
)
from serve_app.whisper.engine.window_task import WindowTask
from serve_app.whisper.window_text import WindowSegment, WindowText

SECOND = 16_000
WINDOW = Span(0, 30 * SECOND)


def seconds(*times: float) -> list[Span]:
    """Return the spans of pairs of times in seconds."""
    return [Span(round(a * SECOND), round(b * SECOND)) for a, b in zip(times[::2], times[1::2], strict=True)]


def test_remaining_clip_after_a_timestamp_pair_during_speech() -> None:
    assert remaining_clips(WINDOW, seconds(0, 12.4), seconds(0.5, 29.5)) == seconds(12.4, 30)


def test_remaining_clip_begins_before_the_next_speech() -> None:
    assert remaining_clips(WINDOW, seconds(0, 12.4), seconds(0.5, 12, 20, 29)) == [
        Span(20 * SECOND - LEAD_IN_SAMPLES, 30 * SECOND)
    ]


def test_a_gap_between_segments() -> None:
    assert remaining_clips(WINDOW, seconds(0, 8, 14, 30), seconds(0.5, 29.5)) == seconds(8, 14)


def test_little_speech_after_the_last_timestamp_is_not_decoded_again() -> None:
    assert remaining_clips(WINDOW, seconds(0, 29), seconds(0.5, 29.4)) == []
    assert remaining_clips(WINDOW, seconds(0, 20), seconds(0.5, 19.8)) == []
    assert remaining_clips(WINDOW, seconds(0, 8, 8.9, 30), seconds(0.5, 29.5)) == [], "an um between two segments"


def test_a_text_that_covers_nothing_has_no_remaining_clips() -> None:
    assert remaining_clips(WINDOW, [], seconds(0.5, 29.5)) == []


def test_speech_without_text() -> None:
    assert uncovered_speech(seconds(0, 10, 12, 15), seconds(0, 9.7, 13, 14)) == seconds(12, 13, 14, 15)


def text(segments: list[tuple[float, float]]) -> WindowText:
    return WindowText(
        language="en",
        text="word",
        segments=tuple(WindowSegment(start=a, end=b, text=" word", tokens=(1,)) for a, b in segments),
        tokens=(1,),
        avg_logprob=0,
        no_speech_prob=0,
        compression_ratio=1,
    )


@st.composite
def speech(draw: st.DrawFn) -> tuple[Span, ...]:
    """Spans of speech in a window of 30 s."""
    edges = sorted(draw(st.sets(st.integers(0, 300), min_size=2, max_size=16)))
    return tuple(Span(a * SECOND // 10, b * SECOND // 10) for a, b in zip(edges[::2], edges[1::2], strict=False))


@st.composite
def segments(draw: st.DrawFn, length_s: float) -> list[tuple[float, float]]:
    """Segments of the text of a clip: it ends early, has gaps, or is empty."""
    most = int(length_s * 50)
    edges = sorted(draw(st.sets(st.integers(0, most), max_size=8)))
    return [(a / 50, b / 50) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@given(speech(), st.data())
def test_all_speech_is_decoded_once(found: tuple[Span, ...], data: st.DataObject) -> None:
    work = WindowTask(np.zeros(WINDOW.end, np.int16), TranscriptionOptions(), (), (), None, found)  # type: ignore[arg-type]
    decoded: list[tuple[Span, list[Span]]] = []
    has_more = True
    while has_more:
        assert len(decoded) < MAX_CLIPS, "it goes on for ever"
        covered_spans = data.draw(segments(work.seconds))
        start = work.clip.start
        covered = [Span(start + round(a * SECOND), start + round(b * SECOND)) for a, b in covered_spans]
        decoded.append((work.clip, covered))
        has_more = work.finish_clip(text(covered_spans))

    texts = [span for _, covered in decoded for span in covered]
    assert total_length(texts) == total_length(subtract_spans([WINDOW], subtract_spans([WINDOW], texts))), (
        "a second has two texts"
    )
    if work.remaining_clips:
        assert len(decoded) == MAX_CLIPS
        return
    silent = [clip for clip, covered in decoded if not covered]
    for gap in subtract_spans([WINDOW], texts):
        left = subtract_spans(clip_spans(found, gap), silent)
        # Remaining clips begin shortly before speech, so only a little speech may be left uncovered.
        assert total_length(left) <= MIN_UNCOVERED_BETWEEN_SAMPLES
    all_segments = [segment for segment, _ in work.result().timed_segments]
    assert all_segments == sorted(all_segments, key=lambda segment: segment.start)
    assert len(all_segments) == len(texts)


def test_segments_of_symbols_are_dropped() -> None:
    work = WindowTask(np.zeros(WINDOW.end, np.int16), TranscriptionOptions(), (), (), None)  # type: ignore[arg-type]
    found = text([(0, 1), (1, 2), (2, 3)])
    segments = [
        segment.model_copy(update={"text": new_text})
        for segment, new_text in zip(found.segments, (" one", " ...", " ♪♪"), strict=True)
    ]
    assert not work.finish_clip(found.model_copy(update={"segments": tuple(segments)}))
    assert (work.result().text, [segment.text for segment in work.result().segments]) == ("one", [" one"])


def test_the_number_of_clips_is_limited() -> None:
    work = WindowTask(np.zeros(WINDOW.end, np.int16), TranscriptionOptions(), (), (), None, (WINDOW,))  # type: ignore[arg-type]
    decoded = 1
    while work.finish_clip(text([(0, 0.02)])):
        decoded += 1
    assert decoded == MAX_CLIPS
    assert total_length(work.uncovered) > 29 * SECOND


def test_a_little_speech_right_after_a_segment_belongs_to_it() -> None:
    (segment,) = seconds(2, 8)
    assert speech_end(segment, 12 * SECOND, seconds(1, 8.6)) == round(8.6 * SECOND)
    assert speech_end(segment, 12 * SECOND, seconds(1, 8, 8.2, 8.9)) == round(8.9 * SECOND)
    assert speech_end(segment, 12 * SECOND, seconds(1, 8, 9.5, 9.9)) == 8 * SECOND, "after a pause"
    assert speech_end(segment, 12 * SECOND, seconds(1, 9.5)) == 8 * SECOND, "too much for an um"
    far = seconds(1, 8.3, 11, 11.4)
    assert speech_end(segment, 12 * SECOND, far) == round(8.3 * SECOND), "not over a pause to what comes later"
    assert speech_end(segment, round(8.4 * SECOND), seconds(1, 8.6)) == round(8.4 * SECOND), "the next one begins"
    assert speech_end(segment, 8 * SECOND, seconds(1, 8.6)) == 8 * SECOND


def test_segments_are_extended_to_their_speech() -> None:
    work = WindowTask(
        np.zeros(WINDOW.end, np.int16), TranscriptionOptions(), (), (), None, tuple(seconds(1, 9, 9.2, 20))
    )  # type: ignore[arg-type]
    assert not work.finish_clip(text([(1, 8.5), (9.2, 19.7)]))
    assert [(segment.start, segment.end) for segment in work.result().segments] == [(1, 9), (9.2, 20)]
    assert not work.uncovered


def test_segment_is_extended_into_a_clip_without_text() -> None:
    speech = tuple(seconds(1, 8.4, 9, 9.8, 12, 20))
    work = WindowTask(np.zeros(WINDOW.end, np.int16), TranscriptionOptions(), (), (), None, speech)  # type: ignore[arg-type]
    assert work.finish_clip(text([(1, 8), (12, 20)]))
    assert not work.finish_clip(text([]))
    assert [(segment.start, segment.end) for segment in work.result().segments] == [(1, 8.4), (12, 20)]
