"""Subtitles, read back by third-party parsers and compared with openai-whisper's writers."""

import html
import io
import re
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidRequest
from serve_app.rendering import subtitles
from serve_app.rendering.subtitles import Layout
from serve_app.schemas.transcript import Segment, Transcript, Turn, Word

Cues = list[tuple[int, int, str]]

# Texts that a model may write: words, other scripts, markup, line and file separators, and syntax of the formats.
TEXTS = st.text("ab1é你😀 <>&-:,\t\n\r\0\u2028\x1c", max_size=8) | st.sampled_from(
    [" -->", " 1\n2\n00:00:01,000 --> 00:00:02,000\nx", " <i>", "&amp;", "\n\n", " WEBVTT", " NOTE", " well,", " "]
)


def segment(start: float, end: float, text: str, words: tuple[Word, ...] | None = None) -> Segment:
    return Segment(
        start=start,
        end=end,
        text=text,
        seek=0,
        tokens=(),
        temperature=0.0,
        avg_logprob=0.0,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        words=words,
    )


def transcript(*segments: Segment, duration: float = 100.0) -> Transcript:
    text = "".join(one.text for one in segments).strip()
    return Transcript(task="transcribe", language="en", duration=duration, text=text, segments=segments)


def spoken(*words: tuple[float, float, str]) -> Segment:
    all_words = tuple(Word(start=start, end=end, text=text, tokens=(), probability=1.0) for start, end, text in words)
    return segment(words[0][0], words[-1][1], "".join(text for _, _, text in words), all_words)


@st.composite
def transcripts(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS, least_ms: int = 0) -> Transcript:
    """Transcripts with adjacent, separate, overlapping and zero-length words; the recording may end before them."""
    segments, at = [], 0
    for count in draw(st.lists(st.integers(1, 6), max_size=6)):
        words = []
        for _ in range(count):
            start = max(0, at + draw(st.sampled_from([0, 0, 0, 130, 3500] + ([] if least_ms else [-200]))))
            at = start + draw(st.integers(least_ms, 1200))
            words.append((start / 1000, at / 1000, draw(texts)))
        segments.append(spoken(*words))
    duration = at if least_ms else draw(st.integers(0, at + 1000))
    return transcript(*segments, duration=duration / 1000)


LAYOUTS = st.builds(
    lambda width, count, highlight: Layout(
        max_line_width=width, max_line_count=count if width else None, highlight_words=highlight
    ),
    st.none() | st.integers(1, 30),
    st.none() | st.integers(1, 3),
    st.booleans(),
)


def read_srt(text: str) -> Cues:
    found = list(srt.parse(text))
    assert [cue.index for cue in found] == list(range(1, len(found) + 1))
    return [(cue.start // MS, cue.end // MS, cue.content) for cue in found]


def read_vtt(text: str) -> Cues:
    cues = webvtt.from_string(text, strict=True)
    return [(_ms(cue.start), _ms(cue.end), html.unescape(UNDERLINE.sub("", cue.raw_text))) for cue in cues]


MS = timedelta(milliseconds=1)
UNDERLINE = re.compile("</?u>")


def _ms(time: str) -> int:
    hours, minutes, seconds = time.split(":")
    return round(1000 * (3600 * int(hours) + 60 * int(minutes) + float(seconds)))


def normalized(text: str) -> str:
    """Remove everything from a text that a format may change."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]", "", UNDERLINE.sub("", text).replace("-->", "->"))


def check(cues: Cues, of: Transcript, layout: Layout) -> None:
    for _, end, text in cues:
        assert text.strip()
        assert end <= round(of.duration * 1000)
    times = [time for start, end, _ in cues for time in (start, end)]
    assert times == sorted(times), "cues overlap or run backwards"
    assert all(start < end for start, end, _ in cues)
    if of.duration:
        cue_texts = [normalized(text) for _, _, text in cues]
        distinct = [
            text for before, text in pairwise(["", *cue_texts]) if not (layout.highlight_words and text == before)
        ]
        expected = normalized(of.text)
        # With highlighting, two equal consecutive cues may be one cue or two.
        assert "".join(distinct) == expected or (layout.highlight_words and set("".join(distinct)) == set(expected))


@given(transcripts(), LAYOUTS)
def test_srt_is_parsed(of: Transcript, layout: Layout) -> None:
    check(read_srt(subtitles.srt(of, layout)), of, layout)


@given(transcripts(), LAYOUTS)
def test_vtt_is_parsed(of: Transcript, layout: Layout) -> None:
    check(read_vtt(subtitles.vtt(of, layout)), of, layout)


def with_speakers(of: Transcript, speakers: list[str]) -> Transcript:
    """Give the transcript's segments these speakers in turn."""
    segments = []
    for place, one in enumerate(of.segments):
        speaker_field = {"speaker": speakers[place % len(speakers)]}
        words = tuple(word.model_copy(update=speaker_field) for word in one.words or ())
        segments.append(one.model_copy(update=speaker_field | {"words": words}))
    turns = tuple(Turn(start=one.start, end=one.end, speaker=str(one.speaker)) for one in segments)
    return of.model_copy(update={"segments": tuple(segments), "turns": turns})


# Upper case, which no text below has.
SPEAKERS = st.lists(st.sampled_from(["ANN", "SPEAKER_00", "B & CO"]), min_size=1, max_size=3)
PLAIN_TEXTS = st.sampled_from([" one", " two,", " three-four", "'s", " five.", " "])


@given(transcripts(PLAIN_TEXTS), LAYOUTS, SPEAKERS)
def test_speakers_are_parsed(of: Transcript, layout: Layout, speakers: list[str]) -> None:
    """Every line of a cue has the previous line's speaker or a label."""
    diarized = with_speakers(of, speakers)
    texts = {"srt": read_srt(subtitles.srt(diarized, layout)), "vtt": webvtt_voices(subtitles.vtt(diarized, layout))}
    for cues in texts.values():
        plain = [(start, end, LABEL.sub("", text)) for start, end, text in cues]
        check(plain, of, layout)
        texts_by_speaker: dict[str, str] = {}
        seen = None
        for _, _, text in cues:
            text = UNDERLINE.sub("", text)
            assert LABEL.match(text), text
            if layout.highlight_words and text == seen:
                continue
            seen = text
            for line in text.split("\n"):
                if label := LABEL.match(line):
                    speaker = label[1]
                texts_by_speaker[speaker] = texts_by_speaker.get(speaker, "") + normalized(LABEL.sub("", line))
        if of.duration and not layout.highlight_words:
            assert texts_by_speaker == {
                speaker: spoken
                for speaker in dict.fromkeys(one.speaker for one in diarized.segments)
                if (spoken := "".join(normalized(one.text) for one in diarized.segments if one.speaker == speaker))
            }


LABEL = re.compile(r"^\[([^\]]+)\]: ", re.MULTILINE)
VOICE = re.compile(r"<v ([^>]+)>(.*?)</v>", re.DOTALL)


def webvtt_voices(text: str) -> Cues:
    """Return cues with voices written as in SubRip."""
    cues = webvtt.from_string(text, strict=True)
    assert all(cue.voice for cue in cues)
    texts = (VOICE.sub(r"[\1]: \2", UNDERLINE.sub("", cue.raw_text)) for cue in cues)
    return [(_ms(cue.start), _ms(cue.end), html.unescape(one)) for cue, one in zip(cues, texts, strict=True)]


TALK = with_speakers(
    transcript(spoken((0, 1, " three"), (1, 2, " one")), spoken((2, 3, " four")), duration=3), ["A<1>", "B"]
)


def test_cues_have_speakers() -> None:
    assert subtitles.srt(TALK) == (
        "1\n00:00:00,000 --> 00:00:02,000\n[A<1>]: three one\n\n2\n00:00:02,000 --> 00:00:03,000\n[B]: four\n\n"
    )
    assert subtitles.vtt(TALK) == (
        "WEBVTT\n\n00:00.000 --> 00:02.000\n<v A&lt;1&gt;>three one</v>\n\n00:02.000 --> 00:03.000\n<v B>four</v>\n\n"
    )
    assert subtitles.tsv(TALK) == "start\tend\ttext\tspeaker\n0\t2000\tthree one\tA<1>\n2000\t3000\tfour\tB\n"


def test_labels_count_towards_the_line_width() -> None:
    layout = Layout(max_line_width=16, max_line_count=2)
    assert [text for _, _, text in read_srt(subtitles.srt(TALK, layout))] == ["[A<1>]: three\none", "[B]: four"]
    assert "<v A&lt;1&gt;>three one</v>" in subtitles.vtt(TALK, layout)


def test_segment_of_zero_length_keeps_its_speaker() -> None:
    talk = with_speakers(transcript(segment(1, 2, " one"), segment(2, 2, " two"), duration=3), ["A", "B"])
    bare = talk.model_copy(update={"segments": tuple(s.model_copy(update={"words": None}) for s in talk.segments)})
    assert read_srt(subtitles.srt(bare)) == [(1000, 2000, "[A]: one"), (2000, 3000, "[B]: two")]
    end = bare.model_copy(update={"duration": 2.0})
    assert read_srt(subtitles.srt(end)) == [(1000, 2000, "[A]: one\n[B]: two")]
    assert "<v A>one</v>\n<v B>two</v>\n" in subtitles.vtt(end)
    assert "1000\t2000\tone two\tA, B\n" in subtitles.tsv(bare)


@given(transcripts())
def test_segments_without_words_are_parsed(of: Transcript) -> None:
    bare = of.model_copy(update={"segments": tuple(s.model_copy(update={"words": None}) for s in of.segments)})
    check(read_srt(subtitles.srt(bare)), bare, subtitles.PLAIN)
    check(read_vtt(subtitles.vtt(bare)), bare, subtitles.PLAIN)
    header, *lines = subtitles.tsv(bare).removesuffix("\n").split("\n")
    assert header == "start\tend\ttext"
    rows = [line.split("\t") for line in lines]
    check([(int(start), int(end), text) for start, end, text in rows], bare, subtitles.PLAIN)


@given(
    transcripts(st.sampled_from([" one", " two,", " three-four", "'s", " five."]), least_ms=1),
    LAYOUTS.filter(lambda layout: layout.asked),
)
def test_layout_equals_openai_whisper(of: Transcript, layout: Layout) -> None:
    utils = pytest.importorskip("whisper.utils", reason="openai-whisper is not installed (the extra bench)")
    result: dict[str, Any] = of.model_dump()
    for one in result["segments"]:
        one["words"] = [word | {"word": word["text"]} for word in one["words"]]
    for write, writer in ((subtitles.srt, utils.WriteSRT(".")), (subtitles.vtt, utils.WriteVTT("."))):
        theirs = io.StringIO()
        writer.write_result(result, theirs, layout.model_dump())
        assert write(of, layout) == theirs.getvalue()


WORDS = spoken((0.0, 0.5, " three"), (0.5, 0.9, " one"), (1.2, 1.5, " four"), (6.0, 6.4, " nine"))


def test_max_line_width_and_count() -> None:
    assert read_srt(subtitles.srt(transcript(WORDS), Layout(max_line_width=9))) == [(0, 6400, "three one\nfour nine")]
    layout = Layout(max_line_width=9, max_line_count=1)
    assert read_srt(subtitles.srt(transcript(WORDS), layout)) == [
        (0, 900, "three one"),
        (1200, 1500, "four"),  # a long pause
        (6000, 6400, "nine"),
    ]


def test_long_segment_is_split_with_and_without_words() -> None:
    text = (
        " When the rain had stopped at last, the children ran out into the garden, and nobody could stop them."
        " They played until the evening came."
    )
    words = text.split()
    with_words = spoken(*((k * 0.5, k * 0.5 + 0.5, f" {word}") for k, word in enumerate(words)))
    expected = [
        "When the rain had stopped at last,",
        "the children ran out into the garden,\nand nobody could stop them.",
        "They played until the evening came.",
    ]
    for one in (with_words, segment(0, 0.5 * len(words), text)):
        of = transcript(one)
        assert [text for _, _, text in read_srt(subtitles.srt(of))] == expected
        assert [text for _, _, text in read_vtt(subtitles.vtt(of))] == expected
        assert len(subtitles.tsv(of).splitlines()) == 2, "one line per segment"


def test_highlight_words() -> None:
    two_words = transcript(spoken((0.0, 0.5, " a<b"), (0.7, 0.9, " c")))
    assert subtitles.vtt(two_words, Layout(highlight_words=True)) == (
        "WEBVTT\n\n"
        "00:00.000 --> 00:00.500\n<u>a&lt;b</u> c\n\n"
        "00:00.500 --> 00:00.700\na&lt;b c\n\n"
        "00:00.700 --> 00:00.900\na&lt;b <u>c</u>\n\n"
    )


def test_segment_of_zero_length_joins_its_neighbour() -> None:
    first, late = segment(1.0, 2.0, " one"), segment(2.0, 2.0, " two")
    assert read_srt(subtitles.srt(transcript(first, late))) == [(1000, 2000, "one two")]
    assert read_srt(subtitles.srt(transcript(late, segment(2.0, 3.0, " three")))) == [(2000, 3000, "two three")]
    assert read_srt(subtitles.srt(transcript(late, duration=4))) == [(2000, 3000, "two")]
    assert read_srt(subtitles.srt(transcript(late, duration=2))) == [(0, 2000, "two")]


def test_times_over_an_hour() -> None:
    assert "01:00:00.000 --> 01:00:01.500\n" in subtitles.vtt(transcript(segment(3600, 3601.5, "a"), duration=3700))
    assert "01:00:00,000 --> 01:00:01,500\n" in subtitles.srt(transcript(segment(3600, 3601.5, "a"), duration=3700))


def test_empty_transcript() -> None:
    layout = Layout(max_line_width=20, highlight_words=True)
    assert subtitles.srt(transcript(), layout) == ""
    assert subtitles.vtt(transcript(), layout) == "WEBVTT\n\n"
    assert subtitles.tsv(transcript()) == "start\tend\ttext\n"


@pytest.mark.parametrize(
    ("layout", "field"),
    [
        ({"max_line_width": 20}, "max_line_width"),
        ({"highlight_words": True}, "highlight_words"),
        ({"max_line_count": 2}, "max_line_count"),
    ],
)
def test_layout_requires_word_timestamps(layout: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        subtitles.srt(transcript(segment(0, 1, "a")), Layout(**layout))
    assert refused.value.param == field
