"""Merge the texts of windows into a transcript, and its text into deltas."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.windows import Window
from serve_app.schemas.request import Task
from serve_app.schemas.transcript import Segment, TextDelta, Transcript, Word
from serve_app.whisper.timing.word_bounds import Speech, bound_words
from serve_app.whisper.window_text import WindowText

FRAMES_PER_SECOND = 100
"""Whisper's feature frames; `seek` counts them."""

LONG_SILENCE_S, EDGE_SILENCE_S = 1.0, 0.4
"""Silence at the edges of a segment that is longer than the first is cut to the second."""


def merge(task: Task, samples: int, windows: Iterable[tuple[Window, WindowText]]) -> Transcript:
    """Return the transcript of a recording of `samples` samples from the texts of its windows, which are in order."""
    segments: list[Segment] = []
    language_s: dict[str, float] = defaultdict(float)
    duration = samples / SAMPLE_RATE
    for window, text in windows:
        offset = window.start / SAMPLE_RATE
        speech = [(span.start / SAMPLE_RATE, span.end / SAMPLE_RATE) for span in window.speech or ()]
        for segment, part in text.timed_segments:
            words = None if segment.words is None else _words(segment.words, offset, duration, speech)
            start, end = _bounds(offset + segment.start, min(offset + segment.end, duration), speech, words or ())
            segments.append(
                Segment(
                    start=round(start, 3),
                    end=round(end, 3),
                    text=segment.text,
                    seek=window.start * FRAMES_PER_SECOND // SAMPLE_RATE + round(part.start * FRAMES_PER_SECOND),
                    tokens=segment.tokens,
                    temperature=part.temperature,
                    avg_logprob=part.avg_logprob,
                    compression_ratio=part.compression_ratio,
                    no_speech_prob=part.no_speech_prob,
                    words=words,
                    logprobs=segment.logprobs,
                )
            )
        for part in text.parts:
            for segment in part.segments:
                language_s[part.language] += segment.end - segment.start
    return Transcript(
        task=task,
        language=max(language_s, key=language_s.__getitem__) if language_s else None,
        duration=round(duration, 3),
        text="".join(segment.text for segment in segments).strip(),
        segments=tuple(segments),
    )


class DeltaBuilder:
    """Builds text deltas from the texts of windows, in order."""

    def __init__(self) -> None:
        self._has_text = False
        self._space = ""  # held back from the last delta: a transcript does not end with a space

    def next(self, window: WindowText) -> TextDelta | None:
        """Return the text that the next window adds, null if there is none."""
        segments = [segment for segment, _ in window.timed_segments]
        text = self._space + "".join(segment.text for segment in segments)
        if not self._has_text:
            text = text.lstrip()
        delta = text.rstrip()
        self._space = text[len(delta) :]
        self._has_text = self._has_text or bool(delta)
        if not delta:
            return None
        tokens = [token for segment in segments for token in segment.logprobs or ()]
        return TextDelta(text=delta, logprobs=tuple(tokens) or None)


def _bounds(start: float, end: float, speech: Speech, words: Sequence[Word]) -> tuple[float, float]:
    """Return the times of a segment without long silence before and after its speech."""
    within = [span for span in speech if span[0] < end and start < span[1]]
    if within:
        first, last = within[0][0], within[-1][1]
        start = first - EDGE_SILENCE_S if first - start > LONG_SILENCE_S else start
        end = last + EDGE_SILENCE_S if end - last > LONG_SILENCE_S else end
    if words:
        start, end = min(start, words[0].start), max(end, words[-1].end)
    return start, end


def _words(words: Sequence[Word], offset: float, duration: float, speech: Speech) -> tuple[Word, ...]:
    """Return words of a window at their times in the recording, without pauses that attention added to them."""
    moved = [word.moved(offset) for word in words]
    within = [
        word.model_copy(update={"start": min(word.start, duration), "end": min(word.end, duration)}) for word in moved
    ]
    return bound_words(within, speech)
