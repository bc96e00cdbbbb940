"""From a window's tokens and their times to timed words."""

import string
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from serve_app.schemas.transcript import Word
from serve_app.whisper.model.tokens import SpecialTokens
from serve_app.whisper.timing.dtw import SECONDS_PER_POSITION
from serve_app.whisper.window_text import WindowSegment, window_segments

_SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces: there each character is a word, as in openai-whisper."""
_BEFORE_WORDS = "\"'“¿([{-"
_AFTER_WORDS = "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word after it, and to the one before: openai-whisper's defaults."""
_INCOMPLETE = "\ufffd"
_HURRIED_S = 1.5 * SECONDS_PER_POSITION
"""No word takes a single position: a path that gives one no more has lost it."""

Decode = Callable[[Sequence[int]], str]
Piece = tuple[str, tuple[int, ...]]
"""Some text and the places of its tokens among a window's."""


def window_words(
    tokens: Sequence[int],
    ends: Sequence[float] | NDArray[np.float64],
    logprobs: Sequence[float] | NDArray[np.float64],
    special: SpecialTokens,
    language: str,
    duration: float,
    decode: Decode,
) -> tuple[tuple[Word, ...], ...]:
    """The words of each segment that `window_segments` cuts the same tokens into, in its order.

    `tokens`: all that was generated, timestamps among them; for each of them `ends` has the second it ends
    at (`alignment.token_ends`) and `logprobs` its natural log-probability. `language`: ISO-639-1 code of the
    text. `duration`: seconds of the window. `decode` turns text tokens into text.

    Words keep order and never overlap, and lie within their segment. ValueError when the three sequences
    differ in length.
    """
    if not len(tokens) == len(ends) == len(logprobs):
        raise ValueError(
            f"{len(tokens)} tokens, {len(ends)} ends and {len(logprobs)} logprobs: give one of each a token"
        )
    stretches = []
    for timestamps, stretch in groupby(range(len(tokens)), key=lambda place: tokens[place] >= special.first_timestamp):
        places = [place for place in stretch if tokens[place] < special.end]
        if not timestamps and decode([tokens[place] for place in places]).strip():
            stretches.append(places)
    probabilities = np.exp(logprobs)
    words = []
    for segment, places in zip(window_segments(tokens, special, duration, decode), stretches, strict=True):
        pieces = _words(tokens, places, language, decode)
        edges = _edges(pieces, tokens, ends, special, segment)
        words.append(
            tuple(
                Word(
                    start=start,
                    end=end,
                    text=text,
                    tokens=tuple(tokens[place] for place in word),
                    probability=float(probabilities[list(word)].mean()),
                )
                for (text, word), (start, end) in zip(pieces, pairwise(edges), strict=True)
            )
        )
    return tuple(words)


def _words(tokens: Sequence[int], places: Sequence[int], language: str, decode: Decode) -> list[Piece]:
    """The words of a stretch of text tokens, as openai-whisper's `split_to_word_tokens` and `merge_punctuations`."""
    pieces = list(_characters(tokens, places, decode))
    if language not in _SPACELESS:
        pieces = _joined(pieces, lambda _, text: not (text.startswith(" ") or text.strip() in string.punctuation))
    words: list[Piece] = []
    for text, word in reversed(pieces):
        if words and text.startswith(" ") and text.strip() in _BEFORE_WORDS:
            following, others = words.pop()
            words.append((text + following, word + others))
        else:
            words.append((text, word))
    return _joined(words[::-1], lambda before, text: not before.endswith(" ") and text in _AFTER_WORDS)


def _joined(pieces: Sequence[Piece], belongs: Callable[[str, str], bool]) -> list[Piece]:
    """Pieces, each drawn into the one before where its text belongs to that one's."""
    joined: list[Piece] = []
    for text, word in pieces:
        if joined and belongs(joined[-1][0], text):
            before, others = joined.pop()
            joined.append((before + text, others + word))
        else:
            joined.append((text, word))
    return joined


def _characters(tokens: Sequence[int], places: Sequence[int], decode: Decode) -> Iterator[Piece]:
    """The fewest tokens each that make whole characters: a token of byte-level BPE may hold part of one."""
    for partial, run in groupby(places, key=lambda place: _INCOMPLETE in decode([tokens[place]])):
        if partial:
            yield from _completed(tokens, list(run), decode)
        else:
            yield from ((decode([tokens[place]]), (place,)) for place in run)


def _completed(tokens: Sequence[int], places: Sequence[int], decode: Decode) -> list[Piece]:
    """Tokens that hold parts of characters, grouped to whole ones; bytes that belong to none decode to U+FFFD."""
    whole = decode([tokens[place] for place in places])
    pieces: list[Piece] = []
    group: list[int] = []
    begin = 0
    for place in places:
        group.append(place)
        text = decode([tokens[place] for place in group])
        if _INCOMPLETE not in text or whole.startswith(text, begin):
            pieces.append((text, tuple(group)))
            begin += len(text)
            group = []
    if group:
        pieces.append((whole[begin:], tuple(group)))
    return _joined(pieces, lambda _, text: not text)


def _edges(
    pieces: Sequence[Piece],
    tokens: Sequence[int],
    ends: Sequence[float] | NDArray[np.float64],
    special: SpecialTokens,
    segment: WindowSegment,
) -> list[float]:
    """Return the start of each word and the end of the last one: a word starts where the token before it ends.

    At a segment's edges the timestamps that the model wrote stand, where it wrote them: attention says little about
    pauses, and the first token of a window ends at 0 on every path. Words that the path hurried through share the
    time of the next longer one evenly: it did so because it had lost them, mostly too early.
    """
    before, after = pieces[0][1][0] - 1, pieces[-1][1][-1] + 1
    edges = np.array([ends[word[0] - 1] if word[0] else 0.0 for _, word in pieces] + [ends[after - 1]])
    if before >= 0 and tokens[before] >= special.first_timestamp:
        edges[0] = segment.start
    if after < len(tokens) and tokens[after] >= special.first_timestamp:
        edges[-1] = segment.end
    edges = np.maximum.accumulate(edges.clip(segment.start, segment.end))
    unhurried = np.flatnonzero(np.diff(edges) > _HURRIED_S) + 1
    # The last edge stands: words hurried through at the end share with the one before them.
    trusted = sorted({0, *unhurried[:-1].tolist(), len(pieces)})
    edges = np.interp(range(len(edges)), trusted, edges[trusted])
    return [float(edge) for edge in edges.round(2).clip(segment.start, segment.end)]
