"""Speakers in each format, read back by third-party parsers."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import TranscriptionDiarizedSegment

from serve_app.rendering.speaker_labels import diarized_segments, openai_speaker_labels, rttm, speaker_text
from serve_app.schemas.transcript import Transcript, Turn
from tests.rendering.test_subtitles import segment, transcript

NAMES = st.sampled_from(["SPEAKER_00", "SPEAKER_01", "SPEAKER_07", "A", "B", "Ann Lee", "Jörg"])


def turn(speaker: str, start: float = 0.0, end: float = 1.0) -> Turn:
    return Turn(start=start, end=end, speaker=speaker)


def test_anonymous_speakers_get_letters_in_order() -> None:
    turns = [turn("SPEAKER_01"), turn("Ann"), turn("SPEAKER_00"), turn("SPEAKER_01")]
    assert openai_speaker_labels(turns) == {"SPEAKER_01": "A", "Ann": "Ann", "SPEAKER_00": "B"}
    assert openai_speaker_labels([turn("SPEAKER_00"), turn("A"), turn("SPEAKER_01")]) == {
        "SPEAKER_00": "B",
        "A": "A",
        "SPEAKER_01": "C",
    }
    many = openai_speaker_labels([turn(f"SPEAKER_{number}") for number in range(30)])
    assert list(many.values())[24:29] == ["Y", "Z", "AA", "AB", "AC"]


@given(st.lists(NAMES))
def test_labels_are_unique(names: list[str]) -> None:
    labels = openai_speaker_labels([turn(name) for name in names])
    assert set(labels) == set(names)
    assert len(set(labels.values())) == len(labels)


def conversation(*texts: tuple[str | None, str], turns: bool = True) -> Transcript:
    """Return segments of one second each."""
    segments = [
        segment(float(at), at + 1.0, text).model_copy(update={"speaker": speaker})
        for at, (speaker, text) in enumerate(texts)
    ]
    all_turns = tuple(turn(one.speaker, one.start, one.end) for one in segments if one.speaker)
    return transcript(*segments).model_copy(update={"turns": all_turns if turns else None})


def test_speaker_text() -> None:
    talk = conversation(("SPEAKER_00", " How are"), ("SPEAKER_00", " you?"), ("Ann", " Fine,\n[Bob]: thanks."))
    assert speaker_text(talk) == "[SPEAKER_00]: How are you?\n[Ann]: Fine, [Bob]: thanks."
    assert speaker_text(conversation((None, " How are"), (None, " you?"))) == "How are you?"
    assert speaker_text(conversation(("Ann", " "), ("Bob", " yes"))) == "[Bob]: yes"
    assert speaker_text(conversation(("Ann", " a"), turns=False)) == "a"


def test_diarized_segments() -> None:
    found = diarized_segments(conversation(("SPEAKER_03", " How?"), ("Ann", " Fine."), (None, " No.")))
    for one in found:
        TranscriptionDiarizedSegment.model_validate(one, strict=True)
    assert found[0] == {
        "type": "transcript.text.segment",
        "id": "seg_001",
        "start": 0.0,
        "end": 1.0,
        "text": "How?",
        "speaker": "A",
    }
    assert [one["speaker"] for one in found] == ["A", "Ann", "unknown"]


@given(st.lists(st.tuples(NAMES, st.integers(0, 10**7), st.integers(1, 10**6)), min_size=1))
def test_rttm_is_parsed_by_pyannote(spans: list[tuple[str, int, int]]) -> None:
    util = pytest.importorskip("pyannote.database.util", reason="pyannote.audio is not installed (extra diarization)")
    turns = [turn(name, start / 1000, (start + length) / 1000) for name, start, length in spans]
    found = util.load_rttm(io.StringIO(rttm(turns, "call-17.a")))
    assert list(found) == ["call-17.a"]
    read = [
        (name, round(1000 * span.start), round(1000 * span.end))
        for span, _, name in found["call-17.a"].itertracks(True)
    ]
    assert sorted(read) == sorted((name.replace(" ", "_"), start, start + length) for name, start, length in spans)


def test_rttm_format() -> None:
    assert rttm([turn("Ann Lee", 1.5, 3.25)], "audio") == "SPEAKER audio 1 1.500 1.750 <NA> <NA> Ann_Lee <NA> <NA>\n"
    assert rttm([], "audio") == ""
