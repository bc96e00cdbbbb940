"""Warnings about speech without text."""

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span
from serve_app.audio.windows import Window
from serve_app.pipeline.coverage import MAX_LISTED, coverage_warning, speech_without_text
from serve_app.whisper.window_text import WindowSegment, WindowText


def text(*times: tuple[float, float]) -> WindowText:
    segments = tuple(WindowSegment(start=a, end=b, text=" word", tokens=(1,)) for a, b in times)
    return WindowText(
        language="en", text="", segments=segments, tokens=(), avg_logprob=0, no_speech_prob=0, compression_ratio=1
    )


def span(start: float, end: float) -> Span:
    return Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))


def test_uncovered_speech_is_listed() -> None:
    windows = [
        (Window(*span(0, 30), (span(1, 9), span(12, 28))), text((1, 9), (12, 20))),
        (Window(*span(30, 60), (span(31, 58.5),)), text()),
    ]
    uncovered = speech_without_text(windows)
    assert uncovered == [span(20, 28), span(31, 58.5)]
    assert coverage_warning(uncovered) == "35.5 s of detected speech have no text: 20.0 to 28.0 s, 31.0 to 58.5 s"


def test_remaining_clips_count_as_covered() -> None:
    whole = text((0, 10)).model_copy(update={"rest": (text((0, 9.8)).moved(10),)})
    assert speech_without_text([(Window(*span(30, 60), (span(30.2, 49.9),)), whole)]) == []


def test_short_gaps_have_no_warning() -> None:
    assert coverage_warning([span(3, 3.9)]) is None
    assert coverage_warning([]) is None


def test_long_list_is_truncated() -> None:
    warning = coverage_warning([span(place, place + 0.6) for place in range(MAX_LISTED + 5)])
    assert warning is not None
    assert warning.endswith("9.0 to 9.6 s, 5 more")
