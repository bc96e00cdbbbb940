from typing import Any

import pytest
from openai.types.audio import TranscriptionDiarized

from serve_app.errors import InvalidRequest
from serve_app.rendering.formats import SPEAKERS, as_whisper, check_speakers, chunked, render
from serve_app.schemas.transcript import Segment, TokenLogprob, Transcript, Turn, Word

SEGMENT = Segment(
    start=0.5,
    end=1.5,
    text=" eins zwei",
    seek=50,
    tokens=(7, 8),
    temperature=0.0,
    avg_logprob=-0.25,
    compression_ratio=0.9,
    no_speech_prob=0.01,
)


def transcript(**changes: Any) -> Transcript:
    unchanged = Transcript(task="transcribe", language="de", duration=2.2, text="eins zwei", segments=(SEGMENT,))
    return unchanged.model_copy(update=changes)


def test_text_ends_with_a_newline() -> None:
    assert render(transcript(), "text") == "eins zwei\n"
    assert render(transcript(text="", segments=()), "text") == "\n"


def test_json_usage_is_in_whole_seconds() -> None:
    assert render(transcript(), "json") == {"text": "eins zwei", "usage": {"type": "duration", "seconds": 3}}


def test_verbose_json_segment_ids() -> None:
    body = render(transcript(segments=(SEGMENT, SEGMENT)), "verbose_json")
    assert isinstance(body, dict)
    assert [segment["id"] for segment in body["segments"]] == [0, 1]
    assert {key: body[key] for key in ("task", "language", "duration", "text")} == {
        "task": "transcribe",
        "language": "german",
        "duration": 2.2,
        "text": "eins zwei",
    }


@pytest.mark.parametrize(
    ("changes", "language"),
    [({"task": "translate"}, "english"), ({"language": None}, "unknown"), ({"language": "fr"}, "french")],
)
def test_language_is_a_name(changes: dict[str, Any], language: str) -> None:
    body = render(transcript(**changes), "verbose_json")
    assert isinstance(body, dict)
    assert body["language"] == language


def test_warnings() -> None:
    for name in ("json", "verbose_json"):
        assert "warnings" not in render(transcript(), name)
        body = render(transcript(warnings=("broke off",)), name)
        assert isinstance(body, dict)
        assert body["warnings"] == ["broke off"]


def test_chunks_are_segments_or_words() -> None:
    silent = SEGMENT.model_copy(update={"start": 1.5, "end": 2.2, "text": " ...", "words": ()})
    words = (
        Word(start=0.5, end=0.9, text=" eins", tokens=(7,), probability=0.9),
        Word(start=1.0, end=1.5, text=" zwei", tokens=(8,), probability=0.9),
    )
    with_words = SEGMENT.model_copy(update={"words": words})
    assert chunked(transcript(warnings=("broke off",))) == {
        "text": "eins zwei",
        "chunks": [{"timestamp": [0.5, 1.5], "text": " eins zwei"}],
        "warnings": ["broke off"],
    }
    assert chunked(transcript(segments=(with_words, silent)))["chunks"] == [
        {"timestamp": [0.5, 0.9], "text": " eins"},
        {"timestamp": [1.0, 1.5], "text": " zwei"},
        {"timestamp": [1.5, 2.2], "text": " ..."},
    ]
    assert chunked(transcript(text="", segments=())) == {"text": "", "chunks": []}


def test_words_and_log_probabilities() -> None:
    words = tuple(Word(start=at, end=at + 1, text=f" w{at}", tokens=(at,), probability=0.9) for at in (0, 1))
    tokens = tuple(TokenLogprob(token=f" w{at}", logprob=-0.5, bytes=(32, 119, 48 + at)) for at in (0, 1))
    with_words = transcript(segments=(SEGMENT.model_copy(update={"words": words, "logprobs": tokens}),))
    body = render(with_words, "verbose_json")
    assert isinstance(body, dict)
    assert body["words"] == [{"word": "w0", "start": 0, "end": 1}, {"word": "w1", "start": 1, "end": 2}]
    assert body["logprobs"][1] == {"token": " w1", "logprob": -0.5, "bytes": (32, 119, 49)}
    assert not {"words", "logprobs"} & set(body["segments"][0])
    assert "logprobs" in render(with_words, "json")
    assert not {"words", "logprobs"} & set(render(transcript(), "verbose_json"))


def test_as_whisper() -> None:
    word = Word(start=0.5, end=0.9, text=" eins", tokens=(7,), probability=0.9)
    found = as_whisper(transcript(segments=(SEGMENT, SEGMENT.model_copy(update={"words": (word,)}))))
    assert (set(found), found["language"]) == ({"text", "segments", "language"}, "de")
    assert [segment["id"] for segment in found["segments"]] == [0, 1]
    assert "words" not in found["segments"][0]
    assert found["segments"][1]["words"] == [{"word": " eins", "start": 0.5, "end": 0.9, "probability": 0.9}]
    assert as_whisper(transcript(task="translate", language=None))["language"] is None
    assert as_whisper(transcript(warnings=("broke off",)))["warnings"] == ["broke off"]


WORDS = (
    Word(start=0.5, end=0.9, text=" eins", tokens=(7,), probability=0.9, speaker="SPEAKER_00"),
    Word(start=1.0, end=1.5, text=" zwei", tokens=(8,), probability=0.9, speaker="SPEAKER_00", overlap=True),
)
TURNS = (Turn(start=0.4, end=1.6, speaker="SPEAKER_00"), Turn(start=1.0, end=1.5, speaker="Ann"))
DIARIZED = transcript(
    segments=(
        SEGMENT.model_copy(update={"speaker": "SPEAKER_00", "words": WORDS}),
        SEGMENT.model_copy(update={"speaker": "Ann", "start": 1.5, "end": 2.0, "text": " drei"}),
    ),
    text="eins zwei drei",
    turns=TURNS,
)


def test_diarized_json() -> None:
    body = render(DIARIZED, "diarized_json")
    found = TranscriptionDiarized.model_validate(body, strict=True)
    assert (found.text, found.duration) == ("eins zwei drei", 2.2)
    assert [(one.speaker, one.text, one.start) for one in found.segments] == [
        ("A", "eins zwei", 0.5),
        ("Ann", "drei", 1.5),
    ]
    assert isinstance(body, dict)
    assert set(body) == {"task", "duration", "text", "segments", "usage"}


def test_speakers_in_all_formats() -> None:
    body = render(DIARIZED, "verbose_json")
    assert isinstance(body, dict)
    assert [one["speaker"] for one in body["segments"]] == ["SPEAKER_00", "Ann"]
    assert body["words"][1] == {"word": "zwei", "start": 1.0, "end": 1.5, "speaker": "SPEAKER_00", "overlap": True}
    assert "overlap" not in body["words"][0]
    first = as_whisper(DIARIZED)["segments"][0]
    assert (first["speaker"], first["words"][0]["speaker"]) == ("SPEAKER_00", "SPEAKER_00")
    assert chunked(DIARIZED)["speakers"] == [
        {"speaker": "SPEAKER_00", "timestamp": [0.5, 0.9], "text": " eins"},
        {"speaker": "SPEAKER_00", "timestamp": [1.0, 1.5], "text": " zwei"},
        {"speaker": "Ann", "timestamp": [1.5, 2.0], "text": " drei"},
    ]
    assert render(DIARIZED, "text") == "[SPEAKER_00]: eins zwei\n[Ann]: drei\n"
    assert render(DIARIZED, "rttm", name="call-17") == (
        "SPEAKER call-17 1 0.400 1.200 <NA> <NA> SPEAKER_00 <NA> <NA>\n"
        "SPEAKER call-17 1 1.000 0.500 <NA> <NA> Ann <NA> <NA>\n"
    )
    assert "speaker" not in str([render(transcript(), "verbose_json"), chunked(transcript()), as_whisper(transcript())])


def test_speaker_formats_require_diarization() -> None:
    for name in SPEAKERS:
        check_speakers(DIARIZED, name)
        check_speakers(transcript(turns=()), name)
        with pytest.raises(InvalidRequest, match="with diarization; it took too long") as refused:
            check_speakers(transcript(warnings=("it took too long",)), name)
        assert refused.value.param == "format"
    check_speakers(transcript(), "srt")


def test_failed_diarization_has_unknown_speakers() -> None:
    body = render(transcript(warnings=("no speakers",)), "diarized_json")
    assert isinstance(body, dict)
    assert ([one["speaker"] for one in body["segments"]], body["warnings"]) == (["unknown"], ["no speakers"])
