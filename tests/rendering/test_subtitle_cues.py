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


def duration_of(segments: list[list[Cue]], silence: int) -> int:
    return max((word.end for segment in segments for word in segment), default=0) + silence


def label_columns(speaker: str | None) -> int:
    return 7 if speaker else 0


def without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(spoken(), st.integers(0, 3000))
def test_each_word_appears_once_in_order(segments: list[list[Cue]], silence: int) -> None:
    cues = list(readable_cues(segments, duration_of(segments, silence), label_columns))
    assert without_spaces("".join(cue.text for cue in cues)) == without_spaces(
        "".join(w.text for one in segments for w in one)
    )
    written = [(letter, cue.speaker) for cue in cues for letter in without_spaces(cue.text)]
    assert written == [(letter, w.speaker) for one in segments for w in one for letter in without_spaces(w.text)]
    assert cues == list(readable_cues(segments, duration_of(segments, silence), label_columns))


@given(spoken(), st.integers(0, 3000))
def test_cue_times(segments: list[list[Cue]], silence: int) -> None:
    total = duration_of(segments, silence)
    cues = list(readable_cues(segments, total))
    times = [time for cue in cues for time in (cue.start, cue.end)]
    assert times == sorted(times)
    for cue, next_start in zip(cues, [*(cue.start for cue in cues), total][1:], strict=True):
        assert 0 < cue.end - cue.start <= MAX_MS or len(cue.text.split()) == 1
        assert cue.end - cue.start >= min(MIN_MS, next_start - cue.start)


@given(spoken(), st.booleans())
def test_line_limits(segments: list[list[Cue]], with_labels: bool) -> None:
    for cue in readable_cues(segments, duration_of(segments, 0), label_columns if with_labels else lambda speaker: 0):
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(line == line.strip() != "" for line in lines)
        for line, max_columns in zip(
            lines, (LINE_COLUMNS - (label_columns(cue.speaker) if with_labels else 0), LINE_COLUMNS), strict=False
        ):
            assert columns(line) <= max_columns or " " not in line


@given(spoken())
def test_single_word_cues_are_avoided(segments: list[list[Cue]]) -> None:
    """A cue has a single word only if it stands alone or does not fit into the cues before and after it."""
    words = [word._replace(text=" go", speaker=None) for segment in segments for word in segment]
    cues = list(readable_cues([words], duration_of(segments, 0)))
    for before, cue in pairwise(cues):
        assert cue.text != "go" or cue.start - before.end >= 400 or cue.end - before.start > MAX_MS - 2000


def segment_of(text: str, pauses: dict[str, int] | None = None, word_ms: int = 300) -> list[list[Cue]]:
    """Return words of equal length, with a pause after some."""
    at, words = 0, []
    for word in re.findall(r"\s*\S+", text):
        words.append(Cue(at, at + word_ms, word))
        at += word_ms + (pauses or {}).get(word.strip(), 0)
    return [words]


def cue_texts(segments: list[list[Cue]]) -> list[str]:
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
def test_line_and_cue_breaks(text: str, expected: list[str]) -> None:
    assert cue_texts(segment_of(text)) == expected


def test_pause_ends_a_cue() -> None:
    assert cue_texts(segment_of("one two three four five six", {"three": 1600})) == ["one two three", "four five six"]
    longer = "they went along the river with the dogs until the evening came and it was very dark over the houses"
    assert cue_texts(segment_of(longer, {"dogs": 600}, 200))[0] == "they went along the river with the dogs"


def test_wide_characters() -> None:
    line = "今天天气很好我们一起去公园散步然后回家吃饭"
    words = [Cue(100 * k, 100 * k + 100, character) for k, character in enumerate(line + line)]
    assert cue_texts([words]) == [f"{line}\n{line}"]
    assert columns(line) == LINE_COLUMNS
    [cue] = readable_cues([split_segment(Cue(0, 3000, f"「{line}」"))], 3000)
    assert not re.search(r"「\n|\n」", cue.text)


def test_script_without_spaces() -> None:
    thai = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะด้วยกันแล้วกลับบ้านไปกินข้าวเย็นด้วยกันเถอะ"
    for cue in readable_cues([split_segment(Cue(0, 6000, thai))], 6000):
        assert all(columns(line) <= LINE_COLUMNS for line in cue.text.split("\n"))


def test_split_segment() -> None:
    assert split_segment(Cue(1000, 2000, " one three", "A")) == [
        Cue(1000, 1500, " one ", "A"),
        Cue(1500, 2000, "three", "A"),
    ]
    assert [word.text for word in split_segment(Cue(0, 1, "你好 ok"))] == ["你", "好 ", "ok"]
    assert split_segment(Cue(0, 1, "  ")) == []


def test_short_cue_is_extended_to_the_next() -> None:
    def times(second: int, total: int) -> list[tuple[int, int]]:
        return [
            cue[:2]
            for cue in readable_cues([[Cue(0, 200, " one", "A")], [Cue(second, second + 200, " two", "B")]], total)
        ]

    assert times(2000, 2500) == [(0, 1000), (2000, 2500)]
    assert times(600, 5000) == [(0, 600), (600, 1600)]
    assert times(1060, 5000) == [(0, 1060), (1060, 2060)], "cues less than two frames apart touch"


def test_speed_on_an_hour_of_words() -> None:
    words = segment_of("And so on and so forth until the end, which is far away. " * 800)
    begin = time.thread_time()
    assert len(list(readable_cues(words, 10**8))) >= 800
    assert time.thread_time() - begin < 2, "10,000 words, about an hour, take a fraction of that"
