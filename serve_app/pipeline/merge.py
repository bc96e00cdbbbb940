"""Texts of windows, put back where they were spoken."""

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

LONG_SILENCE_S, KEPT_SILENCE_S = 1.0, 0.4
"""At the edges of a segment: longer silence is no part of it, but so much."""


def merge(task: Task, samples: int, windows: Iterable[tuple[Window, WindowText]]) -> Transcript:
    """One transcript of a recording of `samples` samples from the texts of its windows, in order."""
    segments: list[Segment] = []
    spoken: dict[str, float] = defaultdict(float)
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
                spoken[part.language] += segment.end - segment.start
    return Transcript(
        task=task,
        language=max(spoken, key=spoken.__getitem__) if spoken else None,
        duration=round(duration, 3),
        text="".join(segment.text for segment in segments).strip(),
        segments=tuple(segments),
    )


class DeltaBuilder:
    """A transcript's text while its windows' texts come, in order."""

    def __init__(self) -> None:
        self._begun = False
        self._space = ""  # at the end so far: the transcript may end there, and it ends with a word

    def next(self, window: WindowText) -> TextDelta | None:
        """Return the text that the next window adds."""
        segments = [segment for segment, _ in window.timed_segments]
        text = self._space + "".join(segment.text for segment in segments)
        if not self._begun:
            text = text.lstrip()
        said = text.rstrip()
        self._space = text[len(said) :]
        self._begun = self._begun or bool(said)
        if not said:
            return None
        tokens = [token for segment in segments for token in segment.logprobs or ()]
        return TextDelta(text=said, logprobs=tuple(tokens) or None)


def _bounds(start: float, end: float, speech: Speech, words: Sequence[Word]) -> tuple[float, float]:
    """A segment's times without long silence before its speech and after it, where Whisper's timestamps hold some."""
    within = [span for span in speech if span[0] < end and start < span[1]]
    if within:
        first, last = within[0][0], within[-1][1]
        start = first - KEPT_SILENCE_S if first - start > LONG_SILENCE_S else start
        end = last + KEPT_SILENCE_S if end - last > LONG_SILENCE_S else end
    if words:
        start, end = min(start, words[0].start), max(end, words[-1].end)
    return start, end


def _words(words: Sequence[Word], offset: float, duration: float, speech: Speech) -> tuple[Word, ...]:
    """Words of a window at their times in the recording, without the pauses that attention gave them."""
    moved = [word.moved(offset) for word in words]
    within = [
        word.model_copy(update={"start": min(word.start, duration), "end": min(word.end, duration)}) for word in moved
    ]
    return bound_words(within, speech)
