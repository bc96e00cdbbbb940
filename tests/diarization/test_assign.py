"""Assignment of words to speakers: no text is lost, and every word has a speaker."""

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.diarization.assign import assign
from serve_app.schemas.transcript import Segment, TokenLogprob, Transcript, Turn, Word

Said = tuple[float, float, str]


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(start=start, end=end, speaker=speaker)


def segment(start: float, end: float, text: str, words: Sequence[Word] | None = None) -> Segment:
    tokens = tuple(token for word in words or () for token in word.tokens)
    return Segment(
        start=start,
        end=end,
        text=text,
        seek=7,
        tokens=tokens,
        temperature=0.2,
        avg_logprob=-0.3,
        compression_ratio=1.1,
        no_speech_prob=0.1,
        words=None if words is None else tuple(words),
        logprobs=tuple(TokenLogprob(token=str(token), logprob=-0.5, bytes=()) for token in tokens) or None,
    )


def transcript(*segments: Segment) -> Transcript:
    text = "".join(one.text for one in segments).strip()
    return Transcript(task="transcribe", language="en", duration=100, text=text, segments=segments)


def spoken(*said: Said) -> Transcript:
    """Return one segment of words with two tokens each."""
    words = [
        Word(start=start, end=end, text=text, tokens=(2 * place, 2 * place + 1), probability=0.9)
        for place, (start, end, text) in enumerate(said)
    ]
    return transcript(segment(said[0][0], said[-1][1], "".join(word.text for word in words), words))


def heard(of: Transcript) -> list[tuple[str | None, str]]:
    return [(one.speaker, one.text) for one in of.segments]


# Hundredths of a second, so that edges often meet.
TIMES = st.integers(0, 1500).map(lambda hundredths: hundredths / 100)


@st.composite
def some_turns(draw: st.DrawFn) -> list[Turn]:
    """Turns in any order, some overlapping, some with zero length."""
    spans = draw(st.lists(st.tuples(TIMES, TIMES, st.sampled_from("ABC")), max_size=12))
    return [turn(min(start, end), max(start, end), speaker) for start, end, speaker in spans]


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Ordered segments with or without words; some words are only a part of the text."""
    edges = sorted(draw(st.lists(TIMES, max_size=12)))
    segments = []
    for start, end in list(pairwise(edges))[::2]:
        inner = sorted(draw(st.lists(st.floats(start, end).map(lambda time: round(time, 2)), max_size=10)))
        words = [
            Word(start=a, end=b, text=f" w{place}", tokens=(place,) * (place % 3), probability=1.0)
            for place, (a, b) in enumerate(pairwise(inner))
        ]
        text = "".join(word.text for word in words) + draw(st.sampled_from(["", "", " and more"]))
        segments.append(segment(start, end, text or " no words", draw(st.sampled_from([words, words, None]))))
    return transcript(*segments)


@pytest.mark.parametrize(("first", "second", "speaker"), [(-20.0, -30.0, "A"), (-30.0, -20.0, "B"), (None, -20.0, "B")])
def test_of_two_at_once_the_louder_one_is_understood(first: float | None, second: float, speaker: str) -> None:
    turns = [
        turn(0, 1.3, "A").model_copy(update={"level": first}),
        turn(1, 3, "B").model_copy(update={"level": second}),
    ]
    assert heard(assign(spoken((1.0, 1.5, " one")), turns)) == [(speaker, " one")]


@given(transcripts(), some_turns())
def test_nothing_is_lost(said: Transcript, turns: list[Turn]) -> None:
    found = assign(said, turns)
    assert "".join(one.text for one in found.segments) == "".join(one.text for one in said.segments)
    assert found.text == said.text

    def tokens(of: Transcript) -> list[int]:
        return [token for one in of.segments for token in one.tokens]

    def logprobs(of: Transcript) -> list[TokenLogprob]:
        return [token for one in of.segments for token in one.logprobs or ()]

    def words(of: Transcript) -> list[Word]:
        bare = {"speaker": None, "overlap": False}
        return [word.model_copy(update=bare) for one in of.segments for word in one.words or ()]

    assert (tokens(found), logprobs(found), words(found)) == (tokens(said), logprobs(said), words(said))
    assert all(one.logprobs is None or len(one.logprobs) == len(one.tokens) for one in found.segments)
    assert {one.seek for one in found.segments} <= {7}


@given(transcripts(), some_turns())
def test_whatever_is_said_has_a_speaker_out_of_the_turns(said: Transcript, turns: list[Turn]) -> None:
    found = assign(said, turns)
    speakers = {one.speaker for one in turns if one.start < one.end} or {None}
    for one in found.segments:
        assert one.speaker in speakers
        assert {word.speaker for word in one.words or ()} <= {one.speaker}
    assert found.turns == tuple(sorted((t for t in turns if t.start < t.end), key=lambda t: t.start))


@given(transcripts(), some_turns())
def test_times_never_run_back(said: Transcript, turns: list[Turn]) -> None:
    found = assign(said, turns)
    times = [time for one in found.segments for time in (one.start, one.end)]
    assert times == sorted(times)
    assert {one.start for one in said.segments} <= set(times)
    assert {one.end for one in said.segments} <= set(times)


@given(transcripts(), some_turns())
def test_twice_is_once(said: Transcript, turns: list[Turn]) -> None:
    once = assign(said, turns)
    assert assign(once, turns) == once
    assert once.turns is not None
    assert assign(once, once.turns) == once


@given(transcripts(), some_turns())
def test_a_word_is_whose_turn_has_most_of_it(said: Transcript, turns: list[Turn]) -> None:
    """Compare with a simple implementation in whole milliseconds."""

    def milliseconds(start: float, end: float) -> set[int]:
        begin = round(1000 * start)
        return set(range(begin, max(round(1000 * end), begin + 1)))

    when: dict[str, set[int]] = {}
    for one in turns:
        if one.start < one.end:
            when[one.speaker] = when.get(one.speaker, set()) | milliseconds(one.start, one.end)
    for word in (word for one in assign(said, turns).segments for word in one.words or ()):
        time = milliseconds(word.start, word.end)
        share = {speaker: len(time & speaks) for speaker, speaks in when.items()}
        most = max(share.values(), default=0)
        several = sum(sum(moment in speaks for speaks in when.values()) > 1 for moment in time)
        assert word.overlap is (several > len(time) / 2)
        if most:
            assert share[str(word.speaker)] == most
        elif when:
            gaps = {
                speaker: min(abs(a - b) for a in (min(time), max(time)) for b in speaks)
                for speaker, speaks in when.items()
            }
            assert gaps[str(word.speaker)] <= min(gaps.values()) + 1  # a turn ends before its last millisecond does


def test_a_segment_is_split_where_the_speaker_changes() -> None:
    said = spoken(
        (0.2, 1.0, " how"), (1.0, 1.4, " are"), (1.4, 2.0, " you?"), (2.4, 3.0, " fine,"), (3.0, 3.5, " you?")
    )
    found = assign(said, [turn(0, 2.1, "A"), turn(2.3, 4, "B")])
    assert heard(found) == [("A", " how are you?"), ("B", " fine, you?")]
    assert [(one.start, one.end, one.tokens) for one in found.segments] == [
        (0.2, 2.0, (0, 1, 2, 3, 4, 5)),
        (2.4, 3.5, (6, 7, 8, 9)),
    ]
    assert [len(one.words or ()) for one in found.segments] == [3, 2]
    assert [token.token for token in found.segments[1].logprobs or ()] == ["6", "7", "8", "9"]


def test_a_word_nobody_speaks_in_is_of_the_nearest_turn() -> None:
    turns = [turn(1, 2, "A"), turn(5, 6, "B")]
    said = spoken((0.0, 0.5, " a"), (2.5, 3.0, " b"), (4.0, 4.2, " c"), (7.0, 8.0, " d"))
    assert heard(assign(said, turns)) == [("A", " a b"), ("B", " c d")]


def test_a_word_in_two_turns_stays_with_who_spoke_before() -> None:
    turns = [turn(0, 4, "A"), turn(1, 2, "B"), turn(3, 6, "B")]
    said = spoken((0.0, 1.0, " a"), (1.0, 1.5, " b"), (2.0, 3.0, " c"), (3.2, 3.8, " d"), (4.0, 5.0, " e"))
    found = assign(said, turns)
    assert heard(found) == [("A", " a b c d"), ("B", " e")]
    assert [word.overlap for one in found.segments for word in one.words or ()] == [False, True, False, True, False]
    assert [one.overlap for one in found.segments] == [False, False]
    assert assign(spoken((1.0, 1.8, " b")), turns).segments[0].overlap
    assert not assign(spoken((0.5, 1.5, " b")), turns).segments[0].overlap, "half of it is not most of it"


def test_a_segment_without_words_has_one_speaker() -> None:
    said = transcript(segment(0, 4, " a"), segment(4, 6, " b", ()), segment(8, 9, " c"))
    found = assign(said, [turn(0, 1.5, "A"), turn(1.5, 6, "B"), turn(9.5, 10, "A")])
    assert [one.speaker for one in found.segments] == ["B", "B", "A"]
    assert [one.words for one in found.segments] == [None, (), None]


def test_a_word_without_time_is_at_a_moment() -> None:
    turns = [turn(0, 1, "A"), turn(1, 2, "B")]
    assert heard(assign(spoken((1.0, 1.0, " b")), turns)) == [("B", " b")]
    assert heard(assign(spoken((2.0, 2.0, " b")), turns)) == [("B", " b")]


def test_without_turns_nobody_spoke() -> None:
    said = assign(spoken((0.0, 1.0, " a")), [turn(0, 1, "A")])
    nobody = assign(said, [turn(1, 1, "A")])
    assert (nobody.turns, heard(nobody), nobody.segments[0].overlap) == ((), [(None, " a")], False)


@pytest.mark.slow
@pytest.mark.parametrize("words", [True, False])
def test_four_hours_take_seconds(words: bool) -> None:
    """40 000 words, 10 000 overlapping turns of 20 speakers."""
    pieces = [(0.36 * place, 0.36 * place + 0.3, " word") for place in range(40_000)]
    stretches = (spoken(*pieces[at : at + 20]).segments[0] for at in range(0, len(pieces), 20))
    said = transcript(*(one if words else one.model_copy(update={"words": None}) for one in stretches))
    turns = [turn(1.44 * place, 1.44 * place + 2, f"SPEAKER_{place % 20:02d}") for place in range(10_000)]
    began = time.process_time()
    assert len(assign(said, turns).segments) >= 2000
    assert time.process_time() - began < 5
