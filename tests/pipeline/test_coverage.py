"""Speech without text is said to be so."""

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


def test_holes_are_found_in_the_recording_and_listed() -> None:
    windows = [
        (Window(*span(0, 30), (span(1, 9), span(12, 28))), text((1, 9), (12, 20))),
        (Window(*span(30, 60), (span(31, 58.5),)), text()),
    ]
    missed = speech_without_text(windows)
    assert missed == [span(20, 28), span(31, 58.5)]
    assert coverage_warning(missed) == "35.5 s of detected speech have no text: 20.0 to 28.0 s, 31.0 to 58.5 s"


def test_a_text_of_the_rest_covers_it_too() -> None:
    whole = text((0, 10)).model_copy(update={"rest": (text((0, 9.8)).moved(10),)})
    assert speech_without_text([(Window(*span(30, 60), (span(30.2, 49.9),)), whole)]) == []


def test_little_is_not_mentioned() -> None:
    assert coverage_warning([span(3, 3.9)]) is None
    assert coverage_warning([]) is None


def test_a_long_list_is_cut() -> None:
    warning = coverage_warning([span(place, place + 0.6) for place in range(MAX_LISTED + 5)])
    assert warning is not None
    assert warning.endswith("9.0 to 9.6 s, 5 more")
