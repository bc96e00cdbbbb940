"""Assignment of words to speakers: no text is lost, and every word has a speaker."""

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.diarization.assign import assign
from serve_app.schemas.transcript import Segment, TokenLogprob, Transcript, Turn, Word

TimedWord = tuple[float, float, str]


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


def spoken(*timed_words: TimedWord) -> Transcript:
    """Return one segment of words with two tokens each."""
    words = [
        Word(start=start, end=end, text=text, tokens=(2 * place, 2 * place + 1), probability=0.9)
        for place, (start, end, text) in enumerate(timed_words)
    ]
    return transcript(segment(timed_words[0][0], timed_words[-1][1], "".join(word.text for word in words), words))


def speaker_texts(of: Transcript) -> list[tuple[str | None, str]]:
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
def test_louder_speaker_wins_an_overlap(first: float | None, second: float, speaker: str) -> None:
    turns = [
        turn(0, 1.3, "A").model_copy(update={"level": first}),
        turn(1, 3, "B").model_copy(update={"level": second}),
    ]
    assert speaker_texts(assign(spoken((1.0, 1.5, " one")), turns)) == [(speaker, " one")]


@given(transcripts(), some_turns())
def test_texts_words_and_tokens_are_kept(unassigned: Transcript, turns: list[Turn]) -> None:
    found = assign(unassigned, turns)
    assert "".join(one.text for one in found.segments) == "".join(one.text for one in unassigned.segments)
    assert found.text == unassigned.text

    def tokens(of: Transcript) -> list[int]:
        return [token for one in of.segments for token in one.tokens]

    def logprobs(of: Transcript) -> list[TokenLogprob]:
        return [token for one in of.segments for token in one.logprobs or ()]

    def words(of: Transcript) -> list[Word]:
        bare = {"speaker": None, "overlap": False}
        return [word.model_copy(update=bare) for one in of.segments for word in one.words or ()]

    assert (tokens(found), logprobs(found), words(found)) == (
        tokens(unassigned),
        logprobs(unassigned),
        words(unassigned),
    )
    assert all(one.logprobs is None or len(one.logprobs) == len(one.tokens) for one in found.segments)
    assert {one.seek for one in found.segments} <= {7}


@given(transcripts(), some_turns())
def test_all_segments_have_a_speaker(unassigned: Transcript, turns: list[Turn]) -> None:
    found = assign(unassigned, turns)
    speakers = {one.speaker for one in turns if one.start < one.end} or {None}
    for one in found.segments:
        assert one.speaker in speakers
        assert {word.speaker for word in one.words or ()} <= {one.speaker}
    assert found.turns == tuple(sorted((t for t in turns if t.start < t.end), key=lambda t: t.start))


@given(transcripts(), some_turns())
def test_times_never_decrease(unassigned: Transcript, turns: list[Turn]) -> None:
    found = assign(unassigned, turns)
    times = [time for one in found.segments for time in (one.start, one.end)]
    assert times == sorted(times)
    assert {one.start for one in unassigned.segments} <= set(times)
    assert {one.end for one in unassigned.segments} <= set(times)


@given(transcripts(), some_turns())
def test_assign_is_idempotent(unassigned: Transcript, turns: list[Turn]) -> None:
    once = assign(unassigned, turns)
    assert assign(once, turns) == once
    assert once.turns is not None
    assert assign(once, once.turns) == once


@given(transcripts(), some_turns())
def test_word_goes_to_the_longest_overlap(unassigned: Transcript, turns: list[Turn]) -> None:
    """Compare with a simple implementation in whole milliseconds."""

    def milliseconds(start: float, end: float) -> set[int]:
        begin = round(1000 * start)
        return set(range(begin, max(round(1000 * end), begin + 1)))

    when: dict[str, set[int]] = {}
    for one in turns:
        if one.start < one.end:
            when[one.speaker] = when.get(one.speaker, set()) | milliseconds(one.start, one.end)
    for word in (word for one in assign(unassigned, turns).segments for word in one.words or ()):
        time = milliseconds(word.start, word.end)
        share = {speaker: len(time & spoken_ms) for speaker, spoken_ms in when.items()}
        most = max(share.values(), default=0)
        several = sum(sum(moment in spoken_ms for spoken_ms in when.values()) > 1 for moment in time)
        assert word.overlap is (several > len(time) / 2)
        if most:
            assert share[str(word.speaker)] == most
        elif when:
            gaps = {
                speaker: min(abs(a - b) for a in (min(time), max(time)) for b in spoken_ms)
                for speaker, spoken_ms in when.items()
            }
            assert gaps[str(word.speaker)] <= min(gaps.values()) + 1  # the end of a turn is exclusive


def test_segment_is_split_at_a_change_of_speaker() -> None:
    unassigned = spoken(
        (0.2, 1.0, " how"), (1.0, 1.4, " are"), (1.4, 2.0, " you?"), (2.4, 3.0, " fine,"), (3.0, 3.5, " you?")
    )
    found = assign(unassigned, [turn(0, 2.1, "A"), turn(2.3, 4, "B")])
    assert speaker_texts(found) == [("A", " how are you?"), ("B", " fine, you?")]
    assert [(one.start, one.end, one.tokens) for one in found.segments] == [
        (0.2, 2.0, (0, 1, 2, 3, 4, 5)),
        (2.4, 3.5, (6, 7, 8, 9)),
    ]
    assert [len(one.words or ()) for one in found.segments] == [3, 2]
    assert [token.token for token in found.segments[1].logprobs or ()] == ["6", "7", "8", "9"]


def test_word_outside_turns_goes_to_the_nearest() -> None:
    turns = [turn(1, 2, "A"), turn(5, 6, "B")]
    unassigned = spoken((0.0, 0.5, " a"), (2.5, 3.0, " b"), (4.0, 4.2, " c"), (7.0, 8.0, " d"))
    assert speaker_texts(assign(unassigned, turns)) == [("A", " a b"), ("B", " c d")]


def test_word_in_two_turns_keeps_the_previous_speaker() -> None:
    turns = [turn(0, 4, "A"), turn(1, 2, "B"), turn(3, 6, "B")]
    unassigned = spoken((0.0, 1.0, " a"), (1.0, 1.5, " b"), (2.0, 3.0, " c"), (3.2, 3.8, " d"), (4.0, 5.0, " e"))
    found = assign(unassigned, turns)
    assert speaker_texts(found) == [("A", " a b c d"), ("B", " e")]
    assert [word.overlap for one in found.segments for word in one.words or ()] == [False, True, False, True, False]
    assert [one.overlap for one in found.segments] == [False, False]
    assert assign(spoken((1.0, 1.8, " b")), turns).segments[0].overlap
    assert not assign(spoken((0.5, 1.5, " b")), turns).segments[0].overlap, "half of a word is not most of it"


def test_segment_without_words_has_one_speaker() -> None:
    unassigned = transcript(segment(0, 4, " a"), segment(4, 6, " b", ()), segment(8, 9, " c"))
    found = assign(unassigned, [turn(0, 1.5, "A"), turn(1.5, 6, "B"), turn(9.5, 10, "A")])
    assert [one.speaker for one in found.segments] == ["B", "B", "A"]
    assert [one.words for one in found.segments] == [None, (), None]


def test_word_of_zero_length() -> None:
    turns = [turn(0, 1, "A"), turn(1, 2, "B")]
    assert speaker_texts(assign(spoken((1.0, 1.0, " b")), turns)) == [("B", " b")]
    assert speaker_texts(assign(spoken((2.0, 2.0, " b")), turns)) == [("B", " b")]


def test_no_turns() -> None:
    with_speaker = assign(spoken((0.0, 1.0, " a")), [turn(0, 1, "A")])
    without_speaker = assign(with_speaker, [turn(1, 1, "A")])
    assert (without_speaker.turns, speaker_texts(without_speaker), without_speaker.segments[0].overlap) == (
        (),
        [(None, " a")],
        False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", [True, False])
def test_speed_on_four_hours(words: bool) -> None:
    """Assign 40 000 words to 10 000 overlapping turns of 20 speakers."""
    pieces = [(0.36 * place, 0.36 * place + 0.3, " word") for place in range(40_000)]
    segments = (spoken(*pieces[at : at + 20]).segments[0] for at in range(0, len(pieces), 20))
    unassigned = transcript(*(one if words else one.model_copy(update={"words": None}) for one in segments))
    turns = [turn(1.44 * place, 1.44 * place + 2, f"SPEAKER_{place % 20:02d}") for place in range(10_000)]
    start = time.process_time()
    assert len(assign(unassigned, turns).segments) >= 2000
    assert time.process_time() - start < 5
