"""Metrics of one transcript. Pure, except for the normaliser, which is part of openai-whisper."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jiwer

from benchmarks.real_speech.transcript import TimedText

WITHOUT_SPACES = ("ja", "ko", "lo", "my", "th", "yue", "zh")
"""Languages whose characters count as words: most have no spaces between words, and Korean's vary."""

EDGE_S = 0.25
"""Shorter gaps are edges of segments, whose times are not more accurate, and not lost speech."""

MIN_REPEATED_WORDS = 3
"""The number of words from which a repetition counts as an error; speakers repeat fewer."""

Span = tuple[float, float]


def normalise(text: str, language: str | None) -> list[str]:
    """Return the normalised words of a text, as in Whisper's paper; characters in languages without spaces."""
    return _normaliser(language)(text).split()


@cache
def _normaliser(language: str | None):  # type: ignore[no-untyped-def]
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    if language == "en":
        return EnglishTextNormalizer()
    return BasicTextNormalizer(split_letters=language in WITHOUT_SPACES)


@dataclass(frozen=True)
class Errors:
    """The number of substituted, missing or inserted words (or characters), and of words in the reference."""

    wrong: int = 0
    of: int = 0

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.wrong + other.wrong, self.of + other.of)

    @property
    def rate(self) -> float:
        """The error rate; with an empty reference each wrong word counts as 1."""
        return self.wrong / max(1, self.of)


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Count the errors of normalised words."""
    if not reference:
        return Errors(len(hypothesis), 0)
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return Errors(found.substitutions + found.deletions + found.insertions, len(reference))


def character_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Count the errors of the characters of normalised words, without spaces."""
    return word_errors(list("".join(reference)), list("".join(hypothesis)))


def repeated_runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return runs of at least three words that are immediately repeated, once for each repetition."""
    found: list[tuple[str, ...]] = []
    place = 0
    while place < len(words):
        for length in range(MIN_REPEATED_WORDS, (len(words) - place) // 2 + 1):
            run = tuple(words[place : place + length])
            if run == tuple(words[place + length : place + 2 * length]):
                found.append(run)
                place += length
                break
        else:
            place += 1
    return found


def repeated_words(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the number of words in repetitions that are not in the reference."""
    expected = set(repeated_runs(reference))
    return sum(len(run) for run in repeated_runs(hypothesis) if run not in expected)


def uncovered_speech(speech: Sequence[Span], segments: Sequence[TimedText]) -> list[Span]:
    """Return the speech that no segment covers, in order."""
    found: list[Span] = []
    for start, end in speech:
        for segment in sorted(segments, key=lambda segment: segment.start):
            if segment.end <= start or segment.start >= end:
                continue
            if segment.start - start >= EDGE_S:
                found.append((start, segment.start))
            start = segment.end
        if end - start >= EDGE_S:
            found.append((start, end))
    return found


def lost_s(speech: Sequence[Span], segments: Sequence[TimedText]) -> float:
    """Return the seconds of speech that no segment covers."""
    return sum(end - start for start, end in uncovered_speech(speech, segments))


def boundary_errors(speech: Sequence[Span], segments: Sequence[TimedText]) -> Span | None:
    """Return the distance in seconds of the first segment's start and the last one's end from the speech's, or None."""
    if not speech or not segments:
        return None
    first, last = min(s.start for s in segments), max(s.end for s in segments)
    return abs(first - speech[0][0]), abs(last - speech[-1][1])


def time_differences(reference: Sequence[TimedText], hypothesis: Sequence[TimedText]) -> list[Span]:
    """Return the differences in seconds of the starts and ends of words that both engines recognised."""
    pairs = [
        [(_strip_punctuation(word.text), word) for word in words if _strip_punctuation(word.text)]
        for words in (reference, hypothesis)
    ]
    if not all(pairs):
        return []
    texts = [" ".join(text for text, _ in words) for words in pairs]
    return [
        (abs(one.start - other.start), abs(one.end - other.end))
        for chunk in jiwer.process_words(*texts).alignments[0]
        if chunk.type == "equal"
        for (_, one), (_, other) in zip(
            pairs[0][chunk.ref_start_idx : chunk.ref_end_idx],
            pairs[1][chunk.hyp_start_idx : chunk.hyp_end_idx],
            strict=True,
        )
    ]


def _strip_punctuation(word: str) -> str:
    """Return a word in lower case, without punctuation and spaces."""
    return "".join(letter for letter in word.lower() if letter.isalnum())
