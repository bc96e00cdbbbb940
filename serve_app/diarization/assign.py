"""Assign speakers to words by the speaker turns they fall into. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby, islice, pairwise
from typing import NamedTuple

from serve_app.schemas.transcript import Segment, Transcript, Turn, Word

MOMENT_S = 1e-3
"""The duration assumed for words without one: the resolution of a transcript's times."""

_SAME_S = 1e-6
"""Speaking times that differ by less are equal: sums of floating-point seconds are not more accurate."""


def assign(transcript: Transcript, turns: Iterable[Turn]) -> Transcript:
    """Return the transcript with `turns`, and with `speaker` and `overlap` of every word and segment.

    A word goes to the speaker who overlaps it longest. Ties go to the previous word's speaker, else to the one whose
    turn started first. If several speakers overlap at least half of the word, it goes to the loudest one, whose speech
    is the most intelligible. A word outside all turns goes to the speaker of the nearest one. Segments are split where
    the speaker changes; a segment without words is treated like a word. Without turns there are no speakers. Runs in
    time proportional to the number of words and turns.
    """
    turns = tuple(sorted((turn for turn in turns if turn.start < turn.end), key=lambda turn: turn.start))
    timeline = _Timeline(turns)
    segments: list[Segment] = []
    speaker: str | None = None
    for segment in transcript.segments:
        words = []
        for word in segment.words or ():
            speaker, overlap = timeline.speaker_between(word.start, word.end, speaker)
            words.append(word.model_copy(update={"speaker": speaker, "overlap": overlap}))
        for piece in _split(segment, words):
            speaker_between, overlap = timeline.speaker_between(piece.start, piece.end, speaker)
            speaker = piece.words[-1].speaker if piece.words else speaker_between
            segments.append(piece.model_copy(update={"speaker": speaker, "overlap": overlap}))
    return transcript.model_copy(update={"turns": turns, "segments": tuple(segments)})


class _Section(NamedTuple):
    """A stretch of time with constant active `speakers`, in order of their turns' starts; there may be none."""

    start: float
    end: float
    speakers: tuple[str, ...]


class _Timeline:
    """The active speakers over time, divided into sections wherever a turn starts or ends."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._sections = list(_sections(turns))
        self._starts = [section.start for section in self._sections]
        self._levels = {turn.speaker: turn.level for turn in turns if turn.level is not None}

    def speaker_between(self, start: float, end: float, before: str | None) -> tuple[str | None, bool]:
        """Return the speaker of a stretch, and whether speech overlaps in most of it. `before` breaks ties."""
        if not self._sections:
            return None, False
        end = max(end, start + MOMENT_S)
        seconds: dict[str, float] = {}
        together = 0.0
        first = max(0, bisect_right(self._starts, start) - 1)
        for section in islice(self._sections, first, None):
            if section.start >= end:
                break
            shared = min(end, section.end) - max(start, section.start)
            if shared > 0:
                seconds |= {speaker: seconds.get(speaker, 0.0) + shared for speaker in section.speakers}
                together += shared if len(section.speakers) > 1 else 0.0
        speakers = self._loudest(seconds, end - start) or _longest(seconds) or self._nearest(start, end)
        return before if before in speakers else speakers[0], together > (end - start) / 2

    def _loudest(self, seconds: Mapping[str, float], length: float) -> list[str]:
        """Return the loudest speaker if several speak during at least half of a stretch, else an empty list."""
        audible = [speaker for speaker, spoken in seconds.items() if 2 * spoken > length - _SAME_S]
        if len(audible) < 2 or not self._levels.keys() >= set(audible):
            return []
        level = max(self._levels[speaker] for speaker in audible)
        return [speaker for speaker in audible if self._levels[speaker] == level]

    def _nearest(self, start: float, end: float) -> list[str]:
        """Return the speakers nearest to a stretch without speech."""
        after = bisect_right(self._starts, start)
        around = self._sections[max(0, after - 2) : after + 1]
        # No two adjacent sections are both silent.
        nearest = min(
            (section for section in around if section.speakers),
            key=lambda section: max(section.start - end, start - section.end),
        )
        return list(nearest.speakers)


def _longest(seconds: Mapping[str, float]) -> list[str]:
    longest = max(seconds.values(), default=0.0)
    return [speaker for speaker, spoken in seconds.items() if spoken > longest - _SAME_S]


def _sections(turns: Sequence[Turn]) -> Iterator[_Section]:
    starts = [(turn.start, 1, turn.speaker) for turn in turns]
    ends = [(turn.end, -1, turn.speaker) for turn in turns]
    speaking: dict[str, int] = {}  # the number of active turns of each speaker
    for (at, change, speaker), (until, _, _) in pairwise(sorted(starts + ends)):
        speaking[speaker] = speaking.get(speaker, 0) + change
        if not speaking[speaker]:
            del speaking[speaker]
        if at < until:
            yield _Section(at, until, tuple(speaking))


def _split(segment: Segment, words: Sequence[Word]) -> Iterator[Segment]:
    """Split a segment into runs of words of one speaker, which together are the whole segment.

    Text and tokens are divided by the lengths of the words; the last run gets the remainder.
    """
    if not words:
        yield segment
        return
    runs = [tuple(run) for _, run in groupby(words, key=lambda word: word.speaker)]
    texts = _shares([sum(len(word.text) for word in run) for run in runs], len(segment.text))
    tokens = _shares([sum(len(word.tokens) for word in run) for run in runs], len(segment.tokens))
    for run, (start, end), text, token in zip(runs, _times(segment, runs), texts, tokens, strict=True):
        yield segment.model_copy(
            update={
                "start": start,
                "end": end,
                "text": segment.text[text],
                "tokens": segment.tokens[token],
                "words": run,
                "logprobs": None if segment.logprobs is None else segment.logprobs[token],
            }
        )


def _shares(lengths: Sequence[int], total: int) -> list[slice]:
    return [slice(*edges) for edges in pairwise([0, *accumulate(lengths[:-1]), total])]


def _times(segment: Segment, runs: Sequence[Sequence[Word]]) -> Iterator[tuple[float, float]]:
    """Yield (start, end) of each run, from its first word to its last; the outer edges are the segment's."""
    starts = [segment.start, *(run[0].start for run in runs[1:])]
    ends = [*(run[-1].end for run in runs[:-1]), segment.end]
    return zip(starts, ends, strict=True)
