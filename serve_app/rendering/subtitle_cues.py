"""Readable subtitle cues: two short lines at most, cut where sentences, clauses or pauses end. Pure.

The limits are those of common style guides for subtitles. The cuts are found by dynamic programming, which minimises
the costs below over each run of words.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple
from unicodedata import category, east_asian_width

LINE_COLUMNS = 42
"""A line's width; an East Asian wide character takes two columns."""
MAX_MS = 7000
MIN_MS = 1000
"""The minimum duration of a cue if no other speech follows within it."""
MIN_GAP_MS = 80
"""Cues closer than two frames (at 25 a second) are joined: a shorter gap flickers."""
BREAK_MS = 1500
"""A cue always ends before a pause this long."""

# Costs in arbitrary units: of each cue, of short cues, of cuts and missing cuts.
_CUE = 15
_ONE_WORD = 40
_SHORT_COLUMNS, _SHORT_COLUMN = 12, 6  # for a cue with fewer columns, for each missing column
_SHORT_TIME = 40  # for each second less than MIN_MS
_AFTER_CLAUSE, _AFTER_WORD = 20, 60  # a cut that is not after a sentence
_AFTER_SHORT_WORD = 15  # in addition: an article or a preposition belongs to the following word
_PAUSE, _PAUSE_MS = 40, 700  # discount for a cut in a pause this long
_SENTENCE_INSIDE = 25
_PAUSE_INSIDE = 40  # for each second of pauses within a cue
_SQUARES = 300  # columns squared over this: two cues of equal length are cheaper than a long and a short one
_LINE_AFTER_CLAUSE, _LINE_AFTER_WORD, _LINE_AFTER_SHORT_WORD = 2, 12, 4  # added to half the lines' difference in width
_SHORT_WORD = 3
"""Columns up to which a word is probably an article, a preposition or a conjunction, in any language."""

_CLOSING = "\"'”’»)]}」』）】"
_SENTENCE_END = re.compile(rf"[.!?…。！？؟।][{re.escape(_CLOSING)}]*$")
_CLAUSE_END = re.compile(rf"[,;:—–、，；：،؛)）][{re.escape(_CLOSING)}]*$")
# A title or an initial has a full stop that ends no sentence.
_ABBREVIATION = re.compile(r"\W*(mr|mrs|ms|dr|prof|st|jr|sr|sra|hr|fr|mme|vs|[^\W\d_])\.", re.IGNORECASE)
_MARKS = frozenset({"Mn", "Mc", "Me", "Cf"})
_NOT_FIRST = _MARKS | {"Pe", "Pf", "Po", "Lm"}
_NOT_LAST = frozenset({"Ps", "Pi", "Cf"})


class Cue(NamedTuple):
    """A cue: its `start` and `end` in milliseconds, its text, and its speaker if known."""

    start: int
    end: int
    text: str
    speaker: str | None = None


@dataclass
class _Unit:
    """Text without a possible line break, usually a word. `space`: a space precedes it within a line."""

    start: int
    end: int
    text: str
    columns: int
    space: bool
    speaker: str | None


def readable_cues(
    segments: Iterable[Sequence[Cue]], total: int, label: Callable[[str | None], int] = lambda speaker: 0
) -> Iterator[Cue]:
    r"""Yield cues of at most two lines, separated by `\
    `, of 42 columns each, and of at most 7 seconds.

    `segments`: the words of each segment, or the whole segment, in order; times never decrease or exceed `total` ms.
    `label`: columns that a speaker's name takes in the first line. Every word is in exactly one cue, in order; cues
    have one speaker and never overlap. Only a single word may exceed the width or duration; only words without a
    duration give cues without one.
    """
    units = list(_units(segments))
    if not units:
        return
    firsts = [0, *(place for place, pair in enumerate(pairwise(units), 1) if _must_separate(*pair)), len(units)]
    cues: list[tuple[_Unit, _Unit, str]] = []
    for begins, ends in pairwise(firsts):
        run, room = units[begins:ends], LINE_COLUMNS - label(units[begins].speaker)
        following = units[ends].start if ends < len(units) else total
        cues += (
            (run[begin], run[end - 1], _lines(run[begin:end], room))
            for begin, end in _find_cheapest_cuts(run, room, following)
        )
    starts = [first.start for first, _, _ in cues[1:]] + [total]
    for (first, last, text), following in zip(cues, starts, strict=True):
        until = max(last.end, min(first.start + MIN_MS, following))
        if following - until < MIN_GAP_MS and following - first.start <= MAX_MS:
            until = following
        yield Cue(first.start, until, text, first.speaker)


def split_segment(segment: Cue) -> list[Cue]:
    """Split a segment without word timestamps into words; its duration is divided in proportion to their lengths."""
    pieces: list[str] = []
    for word in re.findall(r"\s*\S+\s*", segment.text):
        by_character = columns(word) > LINE_COLUMNS or any(map(_wide, word))
        pieces += re.findall(r"\s*\S\s*", word) if by_character else [word]
    edges = list(accumulate(map(len, pieces), initial=0))
    length = segment.end - segment.start
    times = [segment.start + length * edge // max(edges[-1], 1) for edge in edges]
    return [segment._replace(start=a, end=b, text=text) for text, (a, b) in zip(pieces, pairwise(times), strict=True)]


def columns(text: str) -> int:
    """Return the width of a text in a fixed-width font; wide East Asian characters take two columns."""
    if text.isascii():
        return len(text)
    return sum(2 if _wide(character) else 0 if category(character) in _MARKS - {"Mc"} else 1 for character in text)


def _wide(character: str) -> bool:
    return east_asian_width(character) in "WF"


def _units(segments: Iterable[Sequence[Cue]]) -> Iterator[_Unit]:
    """Yield the units of all segments: words, joined where no line may break between them."""
    unit: _Unit | None = None
    spaced = False  # the text before ended with a space
    for segment in segments:
        new_segment = True
        for piece in segment:
            text = piece.text.strip()
            if not text:
                spaced = True
                continue
            space = spaced or piece.text[0].isspace()
            spaced = piece.text[-1].isspace()
            width = columns(text)
            if unit is not None and not (space or new_segment or piece.speaker != unit.speaker):
                if not _breakable(unit, text, width):
                    unit.end, unit.text, unit.columns = piece.end, unit.text + text, unit.columns + width
                    continue
            elif unit is not None and new_segment and not (_wide(unit.text[-1]) or _wide(text[0])):
                space = True
            new_segment = False
            if unit is not None:
                yield unit
            unit = _Unit(piece.start, piece.end, text, width, space, piece.speaker)
    if unit is not None:
        yield unit


def _breakable(unit: _Unit, text: str, width: int) -> bool:
    """Return whether a line may end between a unit and a text that follows without a space."""
    if unit.columns + width > LINE_COLUMNS:  # Thai, for one, has no spaces within a sentence
        return category(text[0]) not in _MARKS
    if not (_wide(unit.text[-1]) or _wide(text[0])):
        return False
    return category(text[0]) not in _NOT_FIRST and category(unit.text[-1]) not in _NOT_LAST


def _must_separate(before: _Unit, after: _Unit) -> bool:
    return before.speaker != after.speaker or after.start - before.end >= BREAK_MS


def _ends_sentence(before: _Unit, after: _Unit) -> bool:
    if not _SENTENCE_END.search(before.text) or after.text[:1].islower():
        return False
    return not _ABBREVIATION.fullmatch(before.text)


def _break_cost(before: _Unit, after: _Unit, clause: int, word: int, short_word: int) -> int:
    """Return the cost of a break between two units."""
    if _ends_sentence(before, after):
        return 0
    if _CLAUSE_END.search(before.text):
        return clause
    return word + short_word * (after.space and before.columns <= _SHORT_WORD)


def _find_cheapest_cuts(units: Sequence[_Unit], first_line: int, following: int) -> list[tuple[int, int]]:
    """Return the cheapest division of one speaker's units into cues, as (begin, end) indices.

    `first_line`: columns of a cue's first line. `following`: the time at which the next speech starts, in ms.
    """
    count = len(units)
    edges = _column_offsets(units)
    starts = [*(unit.start for unit in units), following]
    cut_costs, uncut_costs = [0.0], [0.0]  # of a cut before each unit; of no cut anywhere before it (cumulative)
    for before, after in pairwise(units):
        pause = after.start - before.end
        sentence = _ends_sentence(before, after)
        place = _break_cost(before, after, _AFTER_CLAUSE, _AFTER_WORD, _AFTER_SHORT_WORD)
        cut_costs.append(max(0.0, place - _PAUSE * min(pause / _PAUSE_MS, 1)))
        uncut_costs.append(uncut_costs[-1] + (_SENTENCE_INSIDE if sentence else 0) + _PAUSE_INSIDE * pause / 1000)
    cut_costs.append(0.0)
    fits = [_fill_line(edges, units, begin, first_line) for begin in range(count)]  # the end of each full first line
    costs, begins = [0.0], [0]
    for end in range(1, count + 1):
        cheapest, best = float("inf"), end - 1
        finish, until = units[end - 1].end, starts[end]
        for begin in range(end - 1, -1, -1):
            start = starts[begin]
            if begin < end - 1:
                second = fits[begin]
                if finish - start > MAX_MS or (
                    second < end - 1 and edges[end] - edges[second] - units[second].space > LINE_COLUMNS
                ):
                    break
            width = edges[end] - edges[begin]
            cost = costs[begin] + _CUE + width * width / _SQUARES + uncut_costs[end - 1] - uncut_costs[begin]
            if begin == end - 1:
                cost += _ONE_WORD
            if width < _SHORT_COLUMNS:
                cost += _SHORT_COLUMN * (_SHORT_COLUMNS - width)
            shown = max(finish, min(start + MIN_MS, until)) - start
            if shown < MIN_MS:
                cost += _SHORT_TIME * (MIN_MS - shown) / 1000
            if cost < cheapest:
                cheapest, best = cost, begin
        costs.append(cheapest + cut_costs[end])
        begins.append(best)
    places = [count]
    while places[-1]:
        places.append(begins[places[-1]])
    return list(pairwise(reversed(places)))


def _column_offsets(units: Sequence[_Unit]) -> list[int]:
    """Return the columns before each unit and after the last one, spaces included."""
    return list(accumulate((unit.columns + unit.space for unit in units), initial=0))


def _fill_line(edges: Sequence[int], units: Sequence[_Unit], begin: int, room: int) -> int:
    """Return the index of the first unit after a full line that starts at `begin`; a line has at least one unit."""
    end = begin + 1
    while end < len(units) and edges[end + 1] - edges[begin] - units[begin].space <= room:
        end += 1
    return end


def _lines(units: Sequence[_Unit], first_line: int) -> str:
    """Lay out a cue: in one line if it fits, else in two lines of nearly equal width, split at the best place."""
    edges = _column_offsets(units)
    if len(units) == 1 or edges[-1] - units[0].space <= first_line:
        return _text(units)
    used = LINE_COLUMNS - first_line

    def cost(place: int) -> float:
        first, second = edges[place] - units[0].space, edges[-1] - edges[place] - units[place].space
        over = max(0, first - first_line) + max(0, second - LINE_COLUMNS)
        before, after = units[place - 1], units[place]
        worse = _break_cost(before, after, _LINE_AFTER_CLAUSE, _LINE_AFTER_WORD, _LINE_AFTER_SHORT_WORD)
        return abs(first + used - second) / 2 + worse + 1000 * over

    place = min(range(1, len(units)), key=cost)
    return _text(units[:place]) + "\n" + _text(units[place:])


def _text(units: Sequence[_Unit]) -> str:
    return "".join(" " * unit.space + unit.text for unit in units).strip()
