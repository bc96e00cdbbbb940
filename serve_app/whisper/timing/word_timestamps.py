"""Word timestamps: split a window's tokens into words and compute their times from the tokens' times."""

import string
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from serve_app.schemas.transcript import Word
from serve_app.whisper.model.tokens import SpecialTokens
from serve_app.whisper.timing.dtw import SECONDS_PER_POSITION
from serve_app.whisper.window_text import WindowSegment, window_segments

_LANGUAGES_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces: each character is a word, as in openai-whisper."""
_PREPENDED_PUNCTUATION = "\"'“¿([{-"
_APPENDED_PUNCTUATION = "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the next word, and to the previous word: openai-whisper's defaults."""
_REPLACEMENT_CHARACTER = "\ufffd"
_MIN_WORD_S = 1.5 * SECONDS_PER_POSITION
"""A word takes more than one encoder position: if the alignment path gives it no more, its time is unreliable."""

Decode = Callable[[Sequence[int]], str]
Piece = tuple[str, tuple[int, ...]]
"""A piece of text, and the indices of its tokens in the window."""


def window_words(
    tokens: Sequence[int],
    ends: Sequence[float] | NDArray[np.float64],
    logprobs: Sequence[float] | NDArray[np.float64],
    special: SpecialTokens,
    language: str,
    duration: float,
    decode: Decode,
) -> tuple[tuple[Word, ...], ...]:
    """Return the words of each segment, for the segments that `window_segments` makes of the same tokens.

    `tokens`: all generated tokens, with timestamps. For each of them, `ends` has its end in seconds (`dtw.token_ends`)
    and `logprobs` its natural log-probability. `language`: ISO-639-1 code of the text. `duration`: length of the window
    in seconds. `decode`: converts text tokens to text.

    Words are in order, do not overlap, and lie within their segment. Raises ValueError if the three sequences differ in
    length.
    """
    if not len(tokens) == len(ends) == len(logprobs):
        raise ValueError(
            f"tokens, ends and logprobs must have the same length, not {len(tokens)}, {len(ends)} and {len(logprobs)}"
        )
    segment_indices = []
    for timestamps, run in groupby(range(len(tokens)), key=lambda index: tokens[index] >= special.first_timestamp):
        indices = [index for index in run if tokens[index] < special.end]
        if not timestamps and decode([tokens[index] for index in indices]).strip():
            segment_indices.append(indices)
    probabilities = np.exp(logprobs)
    words = []
    for segment, indices in zip(window_segments(tokens, special, duration, decode), segment_indices, strict=True):
        pieces = _split_words(tokens, indices, language, decode)
        edges = _word_edges(pieces, tokens, ends, special, segment)
        words.append(
            tuple(
                Word(
                    start=start,
                    end=end,
                    text=text,
                    tokens=tuple(tokens[index] for index in word),
                    probability=float(probabilities[list(word)].mean()),
                )
                for (text, word), (start, end) in zip(pieces, pairwise(edges), strict=True)
            )
        )
    return tuple(words)


def _split_words(tokens: Sequence[int], indices: Sequence[int], language: str, decode: Decode) -> list[Piece]:
    """Split text tokens into words, as openai-whisper's `split_to_word_tokens` and `merge_punctuations`."""
    pieces = list(_split_characters(tokens, indices, decode))
    if language not in _LANGUAGES_WITHOUT_SPACES:
        pieces = _merge_pieces(pieces, lambda _, text: not (text.startswith(" ") or text.strip() in string.punctuation))
    words: list[Piece] = []
    for text, word in reversed(pieces):
        if words and text.startswith(" ") and text.strip() in _PREPENDED_PUNCTUATION:
            following, previous_indices = words.pop()
            words.append((text + following, word + previous_indices))
        else:
            words.append((text, word))
    return _merge_pieces(words[::-1], lambda before, text: not before.endswith(" ") and text in _APPENDED_PUNCTUATION)


def _merge_pieces(pieces: Sequence[Piece], is_continuation: Callable[[str, str], bool]) -> list[Piece]:
    """Merge each piece into the previous one if its text continues that one's."""
    merged: list[Piece] = []
    for text, word in pieces:
        if merged and is_continuation(merged[-1][0], text):
            before, previous_indices = merged.pop()
            merged.append((before + text, previous_indices + word))
        else:
            merged.append((text, word))
    return merged


def _split_characters(tokens: Sequence[int], indices: Sequence[int], decode: Decode) -> Iterator[Piece]:
    """Yield the smallest groups of tokens that form whole characters: a byte-level BPE token may be part of one."""
    for partial, run in groupby(indices, key=lambda index: _REPLACEMENT_CHARACTER in decode([tokens[index]])):
        if partial:
            yield from _group_partial_characters(tokens, list(run), decode)
        else:
            yield from ((decode([tokens[index]]), (index,)) for index in run)


def _group_partial_characters(tokens: Sequence[int], indices: Sequence[int], decode: Decode) -> list[Piece]:
    """Group tokens with parts of characters into whole characters. Invalid bytes decode to U+FFFD."""
    whole = decode([tokens[index] for index in indices])
    pieces: list[Piece] = []
    group: list[int] = []
    begin = 0
    for index in indices:
        group.append(index)
        text = decode([tokens[index] for index in group])
        if _REPLACEMENT_CHARACTER not in text or whole.startswith(text, begin):
            pieces.append((text, tuple(group)))
            begin += len(text)
            group = []
    if group:
        pieces.append((whole[begin:], tuple(group)))
    return _merge_pieces(pieces, lambda _, text: not text)


def _word_edges(
    pieces: Sequence[Piece],
    tokens: Sequence[int],
    ends: Sequence[float] | NDArray[np.float64],
    special: SpecialTokens,
    segment: WindowSegment,
) -> list[float]:
    """Return the start of each word and the end of the last word. A word starts where the token before it ends.

    At the edges of a segment the model's timestamps are used, if there are any: attention says little about pauses, and
    the first token of a window ends at 0 on every path. Words to which the path gave no more than one position share
    the time of the next longer word evenly: their times are unreliable, mostly too early.
    """
    before, after = pieces[0][1][0] - 1, pieces[-1][1][-1] + 1
    edges = np.array([ends[word[0] - 1] if word[0] else 0.0 for _, word in pieces] + [ends[after - 1]])
    if before >= 0 and tokens[before] >= special.first_timestamp:
        edges[0] = segment.start
    if after < len(tokens) and tokens[after] >= special.first_timestamp:
        edges[-1] = segment.end
    edges = np.maximum.accumulate(edges.clip(segment.start, segment.end))
    reliable = np.flatnonzero(np.diff(edges) > _MIN_WORD_S) + 1
    # The last edge is used: unreliable words at the end share the time of the word before them.
    trusted = sorted({0, *reliable[:-1].tolist(), len(pieces)})
    edges = np.interp(range(len(edges)), trusted, edges[trusted])
    return [float(edge) for edge in edges.round(2).clip(segment.start, segment.end)]
