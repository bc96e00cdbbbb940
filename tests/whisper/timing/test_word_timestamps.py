import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from serve_app.models import model_source
from serve_app.schemas.languages import language_name
from serve_app.schemas.transcript import Word
from serve_app.whisper.model.tokens import SpecialTokens
from serve_app.whisper.timing.word_timestamps import window_words
from serve_app.whisper.window_text import window_segments

SOURCE = model_source("whisper-nano")
TOKENIZER = WhisperTokenizer.from_pretrained(SOURCE)
SPECIAL = SpecialTokens.from_generation_config(json.loads((Path(SOURCE) / "generation_config.json").read_text()))
DURATION = 9.97


def decode(tokens: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(tokens), skip_special_tokens=True))


def encode(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def at(seconds: float) -> int:
    return SPECIAL.first_timestamp + round(seconds / 0.02)


def words_of(tokens: Sequence[int], ends: Sequence[float], language: str = "en") -> tuple[tuple[Word, ...], ...]:
    return window_words(tokens, ends, [-0.1] * len(tokens), SPECIAL, language, DURATION, decode)


def texts(text: str, language: str = "en") -> list[str]:
    tokens = encode(text)
    [words] = words_of(tokens, np.linspace(0.1, 5, len(tokens)).tolist(), language)
    return [word.text for word in words]


def times(words: Sequence[Word]) -> list[tuple[float, float]]:
    return [(word.start, word.end) for word in words]


text_tokens = st.integers(0, SPECIAL.end - 1) | st.sampled_from(encode(" one two three vier fünf six € , ."))
timestamps = st.integers(SPECIAL.first_timestamp, SPECIAL.first_timestamp + 500)
generated = st.lists(st.one_of(*[text_tokens] * 5, timestamps), max_size=30).flatmap(
    lambda tokens: st.tuples(st.just(tokens), st.lists(st.floats(-1, 12), min_size=len(tokens), max_size=len(tokens)))
)


@settings(deadline=None)
@given(generated, st.sampled_from(["en", "ja"]))
def test_words_join_to_their_segments(stream: tuple[list[int], list[float]], language: str) -> None:
    tokens, ends = stream
    segments = window_segments(tokens, SPECIAL, DURATION, decode)
    for segment, words in zip(segments, words_of(tokens, ends, language), strict=True):
        assert "".join(word.text for word in words) == segment.text
        assert tuple(token for word in words for token in word.tokens) == segment.tokens
        assert all(word.text and word.tokens for word in words)


@settings(deadline=None)
@given(generated)
def test_times_never_decrease_and_lie_within_their_segment(stream: tuple[list[int], list[float]]) -> None:
    tokens, ends = stream
    segments = window_segments(tokens, SPECIAL, DURATION, decode)
    for segment, words in zip(segments, words_of(tokens, ends), strict=True):
        edges = [segment.start, *(edge for word in words for edge in (word.start, word.end)), segment.end]
        assert all(left <= right for left, right in pairwise(edges))


@settings(deadline=None)
@given(st.text(st.sampled_from(" abé€你好！.,\"'([{-)]}?¿“”、:"), min_size=1), st.sampled_from(["en", "zh"]))
def test_words_equal_transformers(text: str, language: str) -> None:
    tokens = encode(text)
    expected, expected_tokens, _ = _combine_tokens_into_words(TOKENIZER, tokens, language_name(language))
    found = [word for words in words_of(tokens, [1.0] * len(tokens), language) for word in words]
    if text.strip():
        assert [word.text for word in found] == expected
        assert [list(word.tokens) for word in found] == expected_tokens


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", " one two, three.", [" one", " two,", " three."]),
        ("es", " ¿dos? (tres)", [" ¿dos?", " (tres)"]),
        ("de", " fünf", [" fünf"]),
        ("fr", " l'eau", [" l", "'eau"]),  # as openai-whisper has it
        ("zh", "你好，世界。", ["你", "好，", "世", "界。"]),
        ("ja", "€5", ["€", "5"]),
        ("en", " (", [" ("]),
    ],
)
def test_words(language: str, text: str, expected: list[str]) -> None:
    assert texts(text, language) == expected


def test_invalid_bytes_are_part_of_a_word() -> None:
    euro = encode("€")
    assert len(euro) == 3  # one byte a token
    [words] = words_of([*encode(" one"), *euro[:2], *encode(" two")], [0.5, 0.6, 0.7, 1.0])
    assert [word.text for word in words] == [" one�", " two"]
    [words] = words_of([euro[0], *encode("你"), *euro[:2]], [0.5, 0.6, 0.7, 1.0, 1.1, 1.2], "zh")
    assert [word.text for word in words] == ["�", "你", "�"]


def test_decreasing_times_are_clamped() -> None:
    tokens = [at(0.0), *encode(" one two three four"), at(6.0)]
    [words] = words_of(tokens, [0.0, 4.0, 3.0, 3.9, 5.5, 5.5])
    assert times(words) == [(0.0, 4.0), (4.0, 4.67), (4.67, 5.33), (5.33, 6.0)]


def test_a_word_starts_where_the_token_before_ends() -> None:
    tokens = [at(0.4), *encode(" one two three"), at(2.5)]
    [words] = words_of(tokens, [0.0, 0.8, 1.3, 1.9, 1.9])
    # The segment's own times stand at its edges: its first token ends at 0 in any case.
    assert times(words) == [(0.4, 0.8), (0.8, 1.3), (1.3, 2.5)]


def test_no_word_contains_a_pause_between_segments() -> None:
    tokens = [at(0.4), *encode(" one"), at(0.9), at(4.0), *encode(" two"), at(4.5)]
    first, second = words_of(tokens, [0.0, 2.2, 2.6, 4.2, 4.3, 4.4])
    assert times(first) == [(0.4, 0.9)]
    assert times(second) == [(4.0, 4.5)]


def test_without_timestamps_times_are_those_of_attention() -> None:
    [words] = words_of(encode(" one two"), [1.2, 20.0])
    assert times(words) == [(0.0, 1.2), (1.2, DURATION)]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([0.0, 1.0, 1.0, 1.9, 2.6, 2.6], [0.4, 1.0, 1.45, 1.9, 3.0]),
        ([0.0, 1.0, 2.2, 3.0, 3.0, 3.0], [0.4, 1.0, 2.2, 2.6, 3.0]),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.4, 1.05, 1.7, 2.35, 3.0]),
    ],
)
def test_too_short_words_share_the_time_of_the_next_word(ends: list[float], expected: list[float]) -> None:
    [words] = words_of([at(0.4), *encode(" one two three four"), at(3.0)], ends)
    assert [*(word.start for word in words), words[-1].end] == pytest.approx(expected)


def test_probability_is_the_mean_of_the_tokens() -> None:
    tokens = encode(" €")
    logprobs = np.log([0.5, 0.7, 0.9, 0.1][: len(tokens)])
    [[word]] = window_words(tokens, [0.1] * len(tokens), logprobs, SPECIAL, "en", DURATION, decode)
    assert word.probability == pytest.approx(np.exp(logprobs).mean())


def test_sequences_of_different_lengths_are_rejected() -> None:
    with pytest.raises(ValueError, match="must have the same length, not 2, 1 and 2"):
        window_words([1, 2], [0.1], [0.0, 0.0], SPECIAL, "en", DURATION, decode)
