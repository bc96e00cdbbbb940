"""Readable cues: their limits, and where texts are cut."""

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rendering.subtitle_cues import LINE_COLUMNS, MAX_MS, MIN_MS, Cue, columns, readable_cues, split_segment

WORDS = st.sampled_from(
    [" one", " two,", " three-four", "'s", " five.", " Six", " Dr.", " extraordinarily", " I", " “well”", " ..."]
) | st.sampled_from(["你", "好，", "世", "界。", "（", "ก", "ำ", "👩", "\u200d", " 한국어"])
"""Words of any language, with and without leading spaces."""


@st.composite
def spoken(draw: st.DrawFn, words: st.SearchStrategy[str] = WORDS) -> list[list[Cue]]:
    """Segments of ordered words with durations and pauses."""
    segments, at, speaker = [], 0, None
    for count in draw(st.lists(st.integers(0, 25), max_size=5)):
        speaker = draw(st.sampled_from([speaker, None, "ANN", "BOB"]))
        segment = []
        for _ in range(count):
            start = at + draw(st.sampled_from([0, 0, 0, 40, 300, 900, 4000]))
            at = start + draw(st.integers(1, 900))
            segment.append(Cue(start, at, draw(words), speaker))
        segments.append(segment)
    return segments


def end_of(segments: list[list[Cue]], silence: int) -> int:
    return max((word.end for segment in segments for word in segment), default=0) + silence


def labelled(speaker: str | None) -> int:
    return 7 if speaker else 0


def letters(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(spoken(), st.integers(0, 3000))
def test_every_word_is_shown_once_in_order_by_its_speaker(segments: list[list[Cue]], silence: int) -> None:
    cues = list(readable_cues(segments, end_of(segments, silence), labelled))
    assert letters("".join(cue.text for cue in cues)) == letters("".join(w.text for one in segments for w in one))
    shown = [(letter, cue.speaker) for cue in cues for letter in letters(cue.text)]
    assert shown == [(letter, w.speaker) for one in segments for w in one for letter in letters(w.text)]
    assert cues == list(readable_cues(segments, end_of(segments, silence), labelled))


@given(spoken(), st.integers(0, 3000))
def test_cues_never_overlap_and_last_as_long_as_they_may(segments: list[list[Cue]], silence: int) -> None:
    total = end_of(segments, silence)
    cues = list(readable_cues(segments, total))
    times = [time for cue in cues for time in (cue.start, cue.end)]
    assert times == sorted(times)
    for cue, following in zip(cues, [*(cue.start for cue in cues), total][1:], strict=True):
        assert 0 < cue.end - cue.start <= MAX_MS or len(cue.text.split()) == 1
        assert cue.end - cue.start >= min(MIN_MS, following - cue.start)


@given(spoken(), st.booleans())
def test_lines_are_two_and_short(segments: list[list[Cue]], named: bool) -> None:
    for cue in readable_cues(segments, end_of(segments, 0), labelled if named else lambda speaker: 0):
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(line == line.strip() != "" for line in lines)
        for line, room in zip(
            lines, (LINE_COLUMNS - (labelled(cue.speaker) if named else 0), LINE_COLUMNS), strict=False
        ):
            assert columns(line) <= room or " " not in line


@given(spoken())
def test_cues_are_cut_no_more_than_need_be(segments: list[list[Cue]]) -> None:
    """A cue has a single word only if it stands alone or does not fit into the cues before and after it."""
    words = [word._replace(text=" go", speaker=None) for segment in segments for word in segment]
    cues = list(readable_cues([words], end_of(segments, 0)))
    for before, cue in pairwise(cues):
        assert cue.text != "go" or cue.start - before.end >= 400 or cue.end - before.start > MAX_MS - 2000


def said(text: str, pauses: dict[str, int] | None = None, word_ms: int = 300) -> list[list[Cue]]:
    """Return words of equal length, with a pause after some."""
    at, words = 0, []
    for word in re.findall(r"\s*\S+", text):
        words.append(Cue(at, at + word_ms, word))
        at += word_ms + (pauses or {}).get(word.strip(), 0)
    return [words]


def texts(segments: list[list[Cue]]) -> list[str]:
    return [cue.text for cue in readable_cues(segments, 10**6)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good morning.", ["Good morning."]),
        (
            "This is the first sentence of two. This is the second one, and it is longer than a line can be.",
            ["This is the first sentence of two.", "This is the second one,\nand it is longer than a line can be."],
        ),
        (
            "When the rain had stopped at last, the children ran out into the garden, and nobody could stop them.",
            [
                "When the rain had stopped at last,",
                "the children ran out into the garden,\nand nobody could stop them.",
            ],
        ),
        ("Yes. I think so. No.", ["Yes. I think so. No."]),
        (
            "We asked Dr. Brown about the old house behind the station of the town",
            ["We asked Dr. Brown about the old house\nbehind the station of the town"],
        ),
    ],
)
def test_texts_are_cut_where_they_may_be(text: str, expected: list[str]) -> None:
    assert texts(said(text)) == expected


def test_a_pause_ends_a_cue() -> None:
    assert texts(said("one two three four five six", {"three": 1600})) == ["one two three", "four five six"]
    longer = "they went along the river with the dogs until the evening came and it was very dark over the houses"
    assert texts(said(longer, {"dogs": 600}, 200))[0] == "they went along the river with the dogs"


def test_wide_characters_take_two_columns_and_are_broken_anywhere() -> None:
    line = "今天天气很好我们一起去公园散步然后回家吃饭"
    words = [Cue(100 * k, 100 * k + 100, character) for k, character in enumerate(line + line)]
    assert texts([words]) == [f"{line}\n{line}"]
    assert columns(line) == LINE_COLUMNS
    [cue] = readable_cues([split_segment(Cue(0, 3000, f"「{line}」"))], 3000)
    assert not re.search(r"「\n|\n」", cue.text)


def test_a_script_without_spaces_is_broken_between_characters_where_it_must() -> None:
    thai = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะด้วยกันแล้วกลับบ้านไปกินข้าวเย็นด้วยกันเถอะ"
    for cue in readable_cues([split_segment(Cue(0, 6000, thai))], 6000):
        assert all(columns(line) <= LINE_COLUMNS for line in cue.text.split("\n"))


def test_a_segment_is_divided_by_its_characters() -> None:
    assert split_segment(Cue(1000, 2000, " one three", "A")) == [
        Cue(1000, 1500, " one ", "A"),
        Cue(1500, 2000, "three", "A"),
    ]
    assert [word.text for word in split_segment(Cue(0, 1, "你好 ok"))] == ["你", "好 ", "ok"]
    assert split_segment(Cue(0, 1, "  ")) == []


def test_a_short_cue_stays_while_nothing_else_is_said() -> None:
    def times(second: int, total: int) -> list[tuple[int, int]]:
        return [
            cue[:2]
            for cue in readable_cues([[Cue(0, 200, " one", "A")], [Cue(second, second + 200, " two", "B")]], total)
        ]

    assert times(2000, 2500) == [(0, 1000), (2000, 2500)]
    assert times(600, 5000) == [(0, 600), (600, 1600)]
    assert times(1060, 5000) == [(0, 1060), (1060, 2060)], "less than two frames apart they touch"


def test_hours_are_cut_in_no_time() -> None:
    words = said("And so on and so forth until the end, which is far away. " * 800)
    begin = time.thread_time()
    assert len(list(readable_cues(words, 10**8))) >= 800
    assert time.thread_time() - begin < 2, "10,000 words, an hour's, take a fraction of that"
