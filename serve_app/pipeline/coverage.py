"""Detected speech that no segment of a transcript covers."""

from collections.abc import Iterable

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, total_length
from serve_app.audio.windows import Window
from serve_app.whisper.engine.seek import uncovered_speech
from serve_app.whisper.window_text import WindowText

TOLERATED_S = 1.0
"""Seconds of speech without text in a recording up to which there is no warning."""

MAX_LISTED = 10
"""Most stretches that a warning lists."""


def speech_without_text(windows: Iterable[tuple[Window, WindowText]]) -> list[Span]:
    """Return the stretches of detected speech that no segment covers, in samples of the recording."""
    missed: list[Span] = []
    for window, text in windows:
        covered = [
            Span(round(segment.start * SAMPLE_RATE), round(segment.end * SAMPLE_RATE)).moved(window.start)
            for segment, _ in text.timed_segments
        ]
        missed += uncovered_speech(window.speech or (), covered)
    return missed


def coverage_warning(missed: list[Span]) -> str | None:
    """Return a warning that lists the stretches of speech without text; null if they are short in total."""
    seconds = total_length(missed) / SAMPLE_RATE
    if seconds <= TOLERATED_S:
        return None
    listed = [f"{span.start / SAMPLE_RATE:.1f} to {span.end / SAMPLE_RATE:.1f} s" for span in missed[:MAX_LISTED]]
    more = [f"{len(missed) - MAX_LISTED} more"] if len(missed) > MAX_LISTED else []
    return f"{seconds:.1f} s of detected speech have no text: {', '.join([*listed, *more])}"
