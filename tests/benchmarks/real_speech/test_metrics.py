"""Accuracy metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.real_speech.metrics import (
    Errors,
    boundary_errors,
    character_errors,
    lost_s,
    normalise,
    repeated_runs,
    repeated_words,
    time_differences,
    uncovered_speech,
    word_errors,
)
from benchmarks.real_speech.transcript import TimedText


def words_of(text: str) -> list[str]:
    return text.split()


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Mr. Smith's 2 dogs, um, can't colour", "en", ["mister", "smith", "is", "2", "dogs", "can", "not", "color"]),
        ("Ganz neu – „eingerichteter“!", "de", ["ganz", "neu", "eingerichteter"]),
        ("真っ昼間。", "ja", ["真", "っ", "昼", "間"]),
        ("그는 길", "ko", ["그", "는", "길"]),
        ("", "en", []),
        ("No idea", None, ["no", "idea"]),
    ],
)
def test_normalise(text: str, language: str | None, expected: list[str]) -> None:
    pytest.importorskip("whisper", reason="no normaliser without openai-whisper (the extra bench)")
    assert normalise(text, language) == expected


def test_word_and_character_errors() -> None:
    reference = words_of("one two three four")
    assert word_errors(reference, reference) == Errors(0, 4)
    assert word_errors(reference, words_of("one too three")) == Errors(2, 4)
    assert word_errors(reference, ["and", *reference]) == Errors(1, 4)
    assert word_errors(reference, []) == Errors(4, 4)
    assert word_errors([], ["what"]) == Errors(1, 0)
    assert character_errors(["ab", "c"], ["a", "bd"]) == Errors(1, 3)


def test_error_rate_of_several_recordings() -> None:
    assert (Errors(1, 2) + Errors(0, 8)).rate == 0.1
    assert Errors(3, 0).rate == 3


def test_repeated_runs() -> None:
    assert repeated_runs(words_of("a b c a b c d")) == [("a", "b", "c")]
    assert repeated_runs(words_of("x a b c d a b c d a b c d")) == [("a", "b", "c", "d")] * 2
    assert repeated_runs(words_of("no no no no no no")) == [("no", "no", "no")]
    assert repeated_runs(words_of("a b a b c c")) == []
    assert repeated_runs(words_of("a b c d a b c")) == []


def test_repetitions_of_the_speaker_do_not_count() -> None:
    twice = words_of("ring the bell ring the bell")
    assert repeated_words(twice, twice) == 0
    assert repeated_words(words_of("ring the bell"), twice) == 3


@given(words, words)
def test_repeated_words_are_bounded(reference: list[str], hypothesis: list[str]) -> None:
    assert 0 <= repeated_words(reference, hypothesis) <= len(hypothesis) / 2 + 1
    assert repeated_words(hypothesis, hypothesis) == 0


def segments(*spans: tuple[float, float]) -> list[TimedText]:
    return [TimedText("", *span) for span in spans]


def test_uncovered_speech() -> None:
    speech = [(1.0, 4.0), (6.0, 9.0)]
    assert uncovered_speech(speech, segments((0, 10))) == []
    assert uncovered_speech(speech, []) == speech
    assert uncovered_speech(speech, segments((0, 2), (3, 7))) == [(2, 3), (7, 9)]
    assert uncovered_speech(speech, segments((3, 7), (0, 3))) == [(7, 9)]
    assert uncovered_speech(speech, segments((0, 8), (2, 3))) == [(8, 9)], "a segment within another"
    assert uncovered_speech(speech, segments((1.2, 3.8), (6.1, 9.1))) == [], "short gaps at the edges do not count"
    assert lost_s(speech, segments((0, 2), (3, 7))) == 3


_spans = st.lists(st.tuples(st.floats(0, 20), st.floats(0.5, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=5)


@given(_spans, _spans)
def test_uncovered_speech_is_outside_segments(
    speech: list[tuple[float, float]], hypothesis: list[tuple[float, float]]
) -> None:
    for start, end in uncovered_speech(speech, segments(*hypothesis)):
        assert any(left <= start < end <= right for left, right in speech)
        assert not any(left < end and start < right for left, right in hypothesis)


def test_boundary_errors() -> None:
    assert boundary_errors([(1, 2), (3, 4)], segments((3.5, 4.5), (0.5, 2))) == (0.5, 0.5)
    assert boundary_errors([], segments((0, 1))) is boundary_errors([(0, 1)], []) is None


def test_time_differences_of_matching_words() -> None:
    reference = [TimedText(" One,", 0, 1), TimedText(" two", 1, 2), TimedText(" three.", 2, 3)]
    hypothesis = [
        TimedText("one", 0.5, 1.25),
        TimedText("too", 1, 2),
        TimedText(" – ", 2, 2),
        TimedText("Three", 2.25, 3),
    ]
    assert time_differences(reference, hypothesis) == [(0.5, 0.25), (0.25, 0)]
    assert time_differences(reference, []) == time_differences([], hypothesis) == []
