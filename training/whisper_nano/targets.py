"""The target tokens of a window, and where in the audio each of them is.

Positions are the encoder's: 20 ms each. A row is a position of the decoder's input; it predicts the next token.
"""

import random
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from transformers import WhisperTokenizer

from training.whisper_nano.compose import Composer, Window, Word
from training.whisper_nano.digits import LANGUAGES, WORDS
from training.whisper_nano.tokenizer import (
    END,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PREVIOUS,
    START,
    TIMESTAMPS,
    TRANSCRIBE,
    TRANSLATE,
    token_id,
)

IGNORED = -100
NO_WORD = len(LANGUAGES) * 10
"""The label of a frame without a word; the others are ten times the language's index, plus the digit."""
SPANS = ("next", "current", "until_next")
_LAST_POSITION = 1500
_LONGEST_PROMPT = 223  # as in Whisper: half the decoder's positions minus one

Span = tuple[int, int]
EMPTY: Span = (0, 0)


@dataclass
class Sequence:
    """Tokens, whether each is learnt, and the positions of each."""

    tokens: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    near: list[Span] = field(default_factory=list)
    until_next: list[Span] = field(default_factory=list)

    def add(self, token: int, label: int | None = None, near: Span = EMPTY, until_next: Span = EMPTY) -> None:
        self.tokens.append(token)
        self.labels.append(IGNORED if label is None else label)
        self.near.append(near)
        self.until_next.append(until_next)

    def spans(self) -> npt.NDArray[np.int32]:
        """Return (3, rows, 2), in the order of SPANS: the span of each row's next token, of its own token, and that of
        the next token extended until the one after it starts, so that every position belongs to a row.
        """
        return np.array([self.near[1:], self.near[:-1], self.until_next[1:]], np.int32)


class Targets:
    """Writes target sequences with one tokenizer."""

    def __init__(self, tokenizer: WhisperTokenizer) -> None:
        number = partial(token_id, tokenizer)
        self.words = {
            language: [tokenizer.encode(" " + word, add_special_tokens=False)[0] for word in WORDS[language]]
            for language in LANGUAGES
        }
        self.languages = {language: number(f"<|{language}|>") for language in LANGUAGES}
        self.end, self.start, self.previous = number(END), number(START), number(PREVIOUS)
        self.no_speech, self.no_timestamps = number(NO_SPEECH), number(NO_TIMESTAMPS)
        self.transcribe, self.translate = number(TRANSCRIBE), number(TRANSLATE)
        self.first_timestamp = number(TIMESTAMPS[0])

    def sequence(self, composer: Composer, window: Window, offset: int, prompted: float) -> Sequence:
        """Return the tokens of a window whose first position is `offset`; `prompted`: the probability of a prompt."""
        rng = composer.rng
        translated = rng.random() < (0.12 if window.language == "en" else 0.25)
        written = "en" if translated else window.language
        written_tokens = self.words[written]
        timed = rng.random() < 0.7
        sequence = Sequence()
        if rng.random() < prompted:
            for token in [self.previous, *self.prompt(composer, window.language, written)[-_LONGEST_PROMPT:]]:
                sequence.add(token)
        sequence.add(self.start)
        language = self.languages[window.language]
        sequence.add(language, label=language if window.words else self.no_speech)
        sequence.add(self.translate if translated else self.transcribe)
        if not timed:
            sequence.add(self.no_timestamps)
        positions = window.features.shape[1] // 2
        if timed:
            self._timed_segments(rng, sequence, window, written_tokens, offset)
        else:
            self._plain_words(sequence, window.words, written_tokens, positions)
        quiet = int(window.words[-1].end / 2) if window.words else 0
        if timed and window.words:
            quiet = sequence.until_next[-1][1]
        sequence.add(self.end, self.end, until_next=(quiet, positions) if window.words else EMPTY)
        return sequence

    def prompt(self, composer: Composer, language: str, written: str) -> list[int]:
        """Return earlier text: mostly previous words, with or without timestamps, else random tokens."""
        rng = composer.rng
        if rng.random() < 0.15:
            return [rng.randrange(self.end) for _ in range(rng.randint(1, 30))]
        timed = rng.random() < 0.75
        tokens: list[int] = []
        for segment in composer.preceding(language):
            words = [self.words[written][word.digit] for word in segment]
            times = [self.timestamp(frame, 0) for frame in (segment[0].start, segment[-1].end)]
            tokens += [times[0], *words, times[1]] if timed else words
        return tokens

    def timestamp(self, frame: float, offset: int) -> int:
        """Return the timestamp token of a frame."""
        return self.first_timestamp + min(_LAST_POSITION, max(0, round(frame / 2) + offset))

    def _plain_words(self, sequence: Sequence, words: list[Word], tokens: list[int], positions: int) -> None:
        for index, word in enumerate(words):
            until = words[index + 1].start if index + 1 < len(words) else word.end
            token = tokens[word.digit]
            sequence.add(token, token, span(word.start, word.end), span(word.start, until))

    def _timed_segments(
        self, rng: random.Random, sequence: Sequence, window: Window, tokens: list[int], offset: int
    ) -> None:
        """Add each segment between its timestamps; a pause belongs to the end before it and the start after it."""
        positions = window.features.shape[1] // 2
        if not window.segments:
            sequence.add(self.timestamp(0, offset), self.timestamp(0, offset) if offset == 0 else None)
        pause = 0
        for index, segment in enumerate(window.segments):
            start, end = segment[0].start, segment[-1].end
            label = self.timestamp(start, offset)
            # Decoders that limit the first timestamp to one second write a wrong one: learn to continue after it.
            capped = index == 0 and label > self.first_timestamp + 50 and rng.random() < 0.15
            token = self.first_timestamp + rng.randint(0, 50) if capped else label
            sequence.add(token, label, around(start, positions), (pause, int(start / 2)))
            for place, word in enumerate(segment):
                until = segment[place + 1].start if place + 1 < len(segment) else word.end
                token = tokens[word.digit]
                sequence.add(token, token, span(word.start, word.end), span(word.start, until))
            following = window.segments[index + 1][0].start / 2 if index + 1 < len(window.segments) else positions
            pause = min(int(end / 2) + 25, int(following))
            label = self.timestamp(end, offset)
            sequence.add(label, label, around(end, positions), (int(end / 2), pause))


def span(start: float, end: float) -> Span:
    """Return the positions of some frames, at least one."""
    return int(start / 2), max(int(end / 2), int(start / 2) + 1)


def around(frame: float, positions: int) -> Span:
    """Return a few positions around a frame."""
    return max(0, int(frame / 2) - 3), min(positions, int(frame / 2) + 4)


def position_labels(window: Window) -> npt.NDArray[np.int64]:
    """Return (positions, 4): the word at each position, and the ones one before, two before and one after it.

    NO_WORD if there is none; the neighbours are IGNORED between words.
    """
    labels = np.full((window.features.shape[1] // 2, 4), IGNORED, np.int64)
    labels[:, 0] = NO_WORD
    words = window.words
    numbers = [LANGUAGES.index(window.language) * 10 + word.digit for word in words]
    padded = [NO_WORD, NO_WORD, *numbers, NO_WORD]
    for index, word in enumerate(words):
        first, last = span(word.start, word.end)
        labels[first:last] = (padded[index + 2], padded[index + 1], padded[index], padded[index + 3])
    return labels
