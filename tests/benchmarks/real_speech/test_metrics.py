"""The arithmetic of accuracy: each figure is what its name says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.real_speech.transcript import Timed
from benchmarks.real_speech.metrics import (
    Errors,
    boundary_errors,
    character_errors,
    doubled,
    doubled_words,
    holes,
    lost_s,
    normalise,
    time_differences,
    word_errors,
)


def said(text: str) -> list[str]:
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
def test_texts_are_compared_as_in_whispers_paper(text: str, language: str | None, expected: list[str]) -> None:
    pytest.importorskip("whisper", reason="no normaliser without openai-whisper (the extra bench)")
    assert normalise(text, language) == expected


def test_wrong_missing_and_needless_words_count() -> None:
    truth = said("one two three four")
    assert word_errors(truth, truth) == Errors(0, 4)
    assert word_errors(truth, said("one too three")) == Errors(2, 4)
    assert word_errors(truth, ["and", *truth]) == Errors(1, 4)
    assert word_errors(truth, []) == Errors(4, 4)
    assert word_errors([], ["what"]) == Errors(1, 0)
    assert character_errors(["ab", "c"], ["a", "bd"]) == Errors(1, 3)


def test_errors_of_several_recordings_are_over_all_their_words() -> None:
    assert (Errors(1, 2) + Errors(0, 8)).rate == 0.1
    assert Errors(3, 0).rate == 3


def test_a_run_that_follows_itself_is_doubled() -> None:
    assert doubled(said("a b c a b c d")) == [("a", "b", "c")]
    assert doubled(said("x a b c d a b c d a b c d")) == [("a", "b", "c", "d")] * 2
    assert doubled(said("no no no no no no")) == [("no", "no", "no")]
    assert doubled(said("a b a b c c")) == []
    assert doubled(said("a b c d a b c")) == []


def test_what_the_speaker_repeats_is_no_fault() -> None:
    twice = said("ring the bell ring the bell")
    assert doubled_words(twice, twice) == 0
    assert doubled_words(said("ring the bell"), twice) == 3


@given(words, words)
def test_nothing_is_doubled_beyond_what_is_there(truth: list[str], heard: list[str]) -> None:
    assert 0 <= doubled_words(truth, heard) <= len(heard) / 2 + 1
    assert doubled_words(heard, heard) == 0


def segments(*spans: tuple[float, float]) -> list[Timed]:
    return [Timed("", *span) for span in spans]


def test_speech_that_no_segment_covers_is_lost() -> None:
    speech = [(1.0, 4.0), (6.0, 9.0)]
    assert holes(speech, segments((0, 10))) == []
    assert holes(speech, []) == speech
    assert holes(speech, segments((0, 2), (3, 7))) == [(2, 3), (7, 9)]
    assert holes(speech, segments((3, 7), (0, 3))) == [(7, 9)]
    assert holes(speech, segments((0, 8), (2, 3))) == [(8, 9)], "a segment within another"
    assert holes(speech, segments((1.2, 3.8), (6.1, 9.1))) == [], "edges of segments are no holes"
    assert lost_s(speech, segments((0, 2), (3, 7))) == 3


_spans = st.lists(st.tuples(st.floats(0, 20), st.floats(0.5, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=5)


@given(_spans, _spans)
def test_holes_lie_in_speech_and_outside_segments(
    speech: list[tuple[float, float]], heard: list[tuple[float, float]]
) -> None:
    for start, end in holes(speech, segments(*heard)):
        assert any(left <= start < end <= right for left, right in speech)
        assert not any(left < end and start < right for left, right in heard)


def test_boundaries_are_the_first_start_and_the_last_end() -> None:
    assert boundary_errors([(1, 2), (3, 4)], segments((3.5, 4.5), (0.5, 2))) == (0.5, 0.5)
    assert boundary_errors([], segments((0, 1))) is boundary_errors([(0, 1)], []) is None


def test_times_are_compared_of_words_that_both_heard() -> None:
    reference = [Timed(" One,", 0, 1), Timed(" two", 1, 2), Timed(" three.", 2, 3)]
    heard = [Timed("one", 0.5, 1.25), Timed("too", 1, 2), Timed(" – ", 2, 2), Timed("Three", 2.25, 3)]
    assert time_differences(reference, heard) == [(0.5, 0.25), (0.25, 0)]
    assert time_differences(reference, []) == time_differences([], heard) == []
