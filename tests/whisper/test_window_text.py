"""Segments and texts of windows, made from token ids."""

import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.whisper.model.tokens import SpecialTokens
from serve_app.whisper.window_text import (
    WindowSegment,
    WindowText,
    compression_ratio,
    next_prompt_tokens,
    window_segments,
)

END, FIRST = 20, 31
SPECIAL = SpecialTokens(
    start=21,
    end=END,
    no_timestamps=FIRST - 1,
    languages={"en": 22},
    tasks={},
    suppressed=(),
    suppressed_at_begin=(),
    max_initial_timestamp_index=None,
)
BLANK = 0


def decode(tokens: Sequence[int]) -> str:
    return "".join(" " if token == BLANK else f" w{token}" for token in tokens)


def at(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([at(0.5), 1, 2, at(1.14)], [(0.5, 1.14, " w1 w2", (1, 2))]),
        ([at(0), 1, at(1), at(1), 2, at(2)], [(0.0, 1.0, " w1", (1,)), (1.0, 2.0, " w2", (2,))]),
        ([at(0), 1, at(1), at(1.5), 2], [(0.0, 1.0, " w1", (1,)), (1.5, 3.0, " w2", (2,))]),
        ([at(0), 1, at(1), at(1)], [(0.0, 1.0, " w1", (1,))]),
        ([1], [(0.0, 3.0, " w1", (1,))]),
        ([at(1), 1, at(5), at(5), 2], [(1.0, 3.0, " w1", (1,)), (3.0, 3.0, " w2", (2,))]),
        ([at(0), BLANK, at(1)], []),
        ([at(0), 25, 1, at(1)], [(0.0, 1.0, " w1", (1,))]),
    ],
    ids=["nothing", "one", "two", "open end", "opened, empty", "no time", "past the end", "blank", "special token"],
)
def test_segments(tokens: list[int], expected: list[tuple[float, float, str, tuple[int, ...]]]) -> None:
    found = window_segments(tokens, SPECIAL, 3.0, decode)
    assert [(segment.start, segment.end, segment.text, segment.tokens) for segment in found] == expected


@given(
    tokens=st.lists(st.one_of(st.integers(1, END - 1), st.integers(FIRST, FIRST + 1500)), max_size=40),
    duration=st.floats(0.02, 30),
)
def test_times_lie_within_the_window_and_never_decrease(tokens: list[int], duration: float) -> None:
    segments = window_segments(tokens, SPECIAL, duration, decode)
    times = [time for segment in segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert all(0 <= time <= duration for time in times)
    assert [token for segment in segments for token in segment.tokens] == [t for t in tokens if t < END]


def test_compression_ratio_equals_whispers() -> None:
    assert compression_ratio("") == 0
    text = "na " * 50
    assert compression_ratio(text) == len(text) / len(zlib.compress(text.encode())) > 2.4
    assert compression_ratio("é") == 2 / len(zlib.compress("é".encode()))


def test_combined_text_of_clips_is_serializable() -> None:
    def part(start: float, temperature: float, *segments: tuple[float, float, str]) -> WindowText:
        return WindowText(
            language="en",
            text="",
            segments=tuple(WindowSegment(start=a, end=b, text=text, tokens=(1,)) for a, b, text in segments),
            tokens=(1, 2),
            avg_logprob=-0.2,
            no_speech_prob=0.1,
            compression_ratio=1,
            temperature=temperature,
        ).moved(start)

    rest = (part(12, 0, (0, 5, " three")), part(4, 0.8, (0.5, 3, " two")))
    whole = part(0, 0, (0, 4, " one"), (7.5, 12, " and")).model_copy(update={"rest": rest})
    found = [(segment.start, segment.text, text.start) for segment, text in whole.timed_segments]
    assert found == [(0, " one", 0), (4.5, " two", 4), (7.5, " and", 0), (12, " three", 12)]
    assert WindowText.model_validate_json(whole.model_dump_json()) == whole
    assert next_prompt_tokens((9,), whole) == (), "its last part was found at a high temperature"
    assert next_prompt_tokens((9,), whole.model_copy(update={"rest": rest[:1]})) == (9, 1, 2, 1, 2)
