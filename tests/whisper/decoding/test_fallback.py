"""Temperature fallback: thresholds, and repetition loops."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.decoding.fallback import (
    MIN_REPEATED_TOKENS,
    MIN_REPETITIONS,
    fallback_verdict,
    max_speech_tokens,
    repetition_period,
    trim_repetition,
)

GOOD: dict[str, Any] = {"avg_logprob": -0.3, "compression_ratio": 1.5, "no_speech_prob": 0.1, "is_repetitive": False}


@pytest.mark.parametrize(
    ("options", "found", "expected"),
    [
        ({}, {}, "good"),
        ({}, {"avg_logprob": -1.1}, "failed"),
        ({}, {"compression_ratio": 2.5}, "failed"),
        ({}, {"is_repetitive": True}, "failed"),
        ({}, {"no_speech_prob": 0.7}, "good"),
        ({}, {"no_speech_prob": 0.7, "avg_logprob": -1.1}, "silence"),
        ({}, {"no_speech_prob": 0.7, "avg_logprob": -1.1, "compression_ratio": 9}, "silence"),
        ({"logprob_threshold": None}, {"avg_logprob": -9}, "good"),
        ({"logprob_threshold": None}, {"no_speech_prob": 0.7}, "silence"),
        ({"compression_ratio_threshold": None}, {"compression_ratio": 9}, "good"),
        ({"no_speech_threshold": None}, {"no_speech_prob": 1.0, "avg_logprob": -1.1}, "failed"),
        ({"no_speech_threshold": 0.05}, {"avg_logprob": -1.1}, "silence"),
        ({}, {"speech_s": 0.4}, "good"),
        ({}, {"is_remaining_clip": True, "no_speech_prob": 0.29}, "good"),
        ({}, {"is_remaining_clip": True, "no_speech_prob": 0.31}, "silence"),
        ({"no_speech_threshold": None}, {"is_remaining_clip": True, "no_speech_prob": 0.31}, "good"),
        ({}, {"speech_s": 0.4, "no_speech_prob": 0.39}, "good"),
        ({}, {"speech_s": 0.4, "no_speech_prob": 0.41}, "silence"),
        ({}, {"speech_s": 1.4, "no_speech_prob": 0.41}, "good"),
        ({}, {"speech_s": 0.4, "avg_logprob": -1.1}, "silence"),
        ({}, {"speech_s": 1.4, "no_speech_prob": 0.7}, "good"),
        ({}, {"speech_s": 1.4, "avg_logprob": -1.1}, "failed"),
        ({"no_speech_threshold": None}, {"speech_s": 0.4, "avg_logprob": -1.1}, "failed"),
    ],
)
def test_the_thresholds(options: dict[str, Any], found: dict[str, Any], expected: str) -> None:
    assert fallback_verdict(TranscriptionOptions(**options), **GOOD | found) == expected


END = 10
texts = st.lists(st.integers(0, END - 1), max_size=12)


@given(before=texts, loop=st.lists(st.integers(0, END - 1), min_size=1, max_size=8), times=st.integers(0, 12))
def test_repetition_at_the_end_is_found(before: list[int], loop: list[int], times: int) -> None:
    found = repetition_period([*before, *loop * times])
    if times > MIN_REPETITIONS and len(loop) * times >= MIN_REPEATED_TOKENS + len(loop):
        assert found is not None
        assert len(loop) % found == 0 or found <= len(loop)
    if found:
        tail = [*before, *loop * times][-max(MIN_REPETITIONS * found, MIN_REPEATED_TOKENS) :]
        assert all(tail[i] == tail[i + found] for i in range(len(tail) - found))


def test_a_loop_is_trimmed_to_its_first_occurrence() -> None:
    assert trim_repetition([7, 8, *[1, 2, 3] * 6], END) == (7, 8, 1, 2, 3)
    assert trim_repetition([7, 8, *[1, 2, 3] * 6, 1, 2], END) == (7, 8, 1, 2, 3)
    stamped = [20, 7, 21, *(token for turn in range(9) for token in (22 + turn, 1, 2, 23 + turn))]
    assert trim_repetition(stamped, END) == (20, 7, 21, 22, 1, 2)


@given(tokens=texts)
def test_other_texts_are_not_trimmed(tokens: list[int]) -> None:
    if repetition_period(tokens) is None:
        assert trim_repetition(tokens, END) == tuple(tokens)


def test_max_speech_tokens_grow_with_the_length() -> None:
    assert max_speech_tokens(1) < max_speech_tokens(30) < 448
