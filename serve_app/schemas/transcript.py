"""Transcripts, from which every format is rendered."""

from collections.abc import AsyncGenerator
from typing import Self

from pydantic import Field

from serve_app.schemas.request import StrictModel, Task


class TokenLogprob(StrictModel):
    """A text token: its text (a replacement character for part of one), log-probability and UTF-8 bytes."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class SpeakerTagged(StrictModel):
    """Something that was said. `speaker`: whose it is, once speakers have been told apart.

    `overlap`: during more than half of its time (or at its moment, if it has no time) several spoke.
    """

    speaker: str | None = Field(None, exclude_if=lambda speaker: speaker is None)
    overlap: bool = Field(False, exclude_if=lambda overlap: not overlap)


class Word(SpeakerTagged):
    """A word with the punctuation that clings to it, in seconds from the start of its window.

    `text` as generated, mostly with a leading space; `tokens`: its token ids. `probability`: the
    mean of its tokens' probabilities.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    probability: float

    def moved(self, seconds: float) -> Self:
        """Return the same word so many seconds later."""
        return self.model_copy(update={"start": round(self.start + seconds, 3), "end": round(self.end + seconds, 3)})


class Segment(SpeakerTagged):
    """A stretch of text between two timestamps of one window.

    `start`, `end`: seconds from the start of the recording. `seek`: start of its window, in
    feature frames of 10 ms. `tokens`: its text tokens between its two timestamp tokens.
    The last three figures are its window's, as in Whisper: mean log-probability of a token,
    bytes of the text over its zlib-compressed bytes, probability of the no-speech token.
    `words` and the tokens' `logprobs` are there when they were asked for; words' times are the recording's.
    With speakers told apart no segment has more than one.
    """

    start: float
    end: float
    text: str
    seek: int
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


class Turn(StrictModel):
    """One speaker talking without a pause, at the same time as others perhaps.

    `start`, `end`: seconds from the start of the recording. `speaker`: `SPEAKER_00` and so on in order of first
    appearance, or the name of a known speaker. `level`: how loud the speaker is, in dB of full scale; null: not known.
    `similarity`: the cosine similarity of a known speaker's voice to the reference clip; null for other speakers.
    """

    start: float
    end: float
    speaker: str
    level: float | None = Field(None, exclude_if=lambda level: level is None)
    similarity: float | None = Field(None, exclude_if=lambda similarity: similarity is None)


class TextDelta(StrictModel):
    """The next piece of a transcript's text. The deltas of a stream together are `Transcript.text`."""

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class Transcript(StrictModel):
    """The text of one recording.

    `language`: ISO-639-1 code of the language spoken longest, null when there was no speech.
    `duration`: seconds of audio that were read. `warnings`: what a user should know, such as
    a recording that broke off. `timings`: seconds spent in each stage. `turns`: who spoke when; null: not diarized.
    """

    task: Task
    language: str | None
    duration: float
    text: str
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...] | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)

    @property
    def wordless(self) -> Self:
        """Return the transcript without words."""
        segments = tuple(segment.model_copy(update={"words": None}) for segment in self.segments)
        return self.model_copy(update={"segments": segments})


TranscriptStream = AsyncGenerator[TextDelta | Transcript]
"""Text deltas in order, if they were requested, and then the transcript, which is always the last item.

Cancelling the consumer, or closing the generator, cancels the work.
"""


async def final_transcript(stream: TranscriptStream) -> Transcript:
    """Return the transcript at the end of a stream."""
    last: TextDelta | Transcript | None = None
    async for item in stream:  # to its very end: closing it earlier would cancel it
        last = item
    assert isinstance(last, Transcript), "a stream ends with the transcript"
    return last
