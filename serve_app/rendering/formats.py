"""A transcript in the shapes clients ask for."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from serve_app.errors import InvalidRequest
from serve_app.rendering import speaker_labels, subtitles
from serve_app.rendering.subtitles import PLAIN, Layout
from serve_app.schemas.languages import language_name
from serve_app.schemas.transcript import Segment, Transcript, Word

SpeechFormat = Literal["json", "verbose_json", "diarized_json", "text", "srt", "vtt", "tsv"]
"""The formats of a text."""

Format = Literal[SpeechFormat, "rttm"]
"""The formats of a transcript."""

SPEAKERS: tuple[Format, ...] = ("diarized_json", "rttm")
"""The formats that are about who speaks."""

SUBTITLES: tuple[Format, ...] = ("srt", "vtt")
"""The formats that are shown beside the recording, and are cut by words' times."""

MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "diarized_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "tsv": "text/tab-separated-values",
    "rttm": "text/plain",
}


def check_speakers(transcript: Transcript, form: Format) -> None:
    """Raise InvalidRequest where a format is about speakers, and they were not told apart."""
    if form in SPEAKERS and transcript.turns is None:
        why = "; ".join(("", *transcript.warnings))
        raise InvalidRequest(f"format {form} needs speakers: submit the job with diarization{why}", "format")


def render(transcript: Transcript, form: Format, layout: Layout = PLAIN, name: str = "audio") -> str | dict[str, Any]:
    """The transcript as text, or as the JSON object OpenAI's audio API answers with.

    `name`: what RTTM calls the recording, without spaces.
    Raises InvalidRequest for a layout that this format or this transcript can't have.
    """
    if layout.asked and form not in SUBTITLES:
        raise InvalidRequest(
            f"{layout.asked[0]} is allowed for the formats srt and vtt only, not for {form}", layout.asked[0]
        )
    match form:
        case "srt":
            return subtitles.srt(transcript, layout)
        case "vtt":
            return subtitles.vtt(transcript, layout)
        case "tsv":
            return subtitles.tsv(transcript)
        case "text":
            return speaker_labels.speaker_text(transcript) + "\n"
        case "rttm":
            return speaker_labels.rttm(transcript.turns or (), name)
        case "json":
            return {"text": transcript.text} | _logprobs(transcript) | _usage(transcript) | _warnings(transcript)
        case "diarized_json":
            return {
                "task": transcript.task,
                "duration": transcript.duration,
                "text": transcript.text,
                "segments": speaker_labels.diarized_segments(transcript),
                **_usage(transcript),
                **_warnings(transcript),
            }
        case "verbose_json":
            return {
                "task": transcript.task,
                "language": _spoken(transcript),
                "duration": transcript.duration,
                "text": transcript.text,
                **_words(transcript),
                "segments": [_segment(number, segment) for number, segment in enumerate(transcript.segments)],
                **_logprobs(transcript),
                **_usage(transcript),
                **_warnings(transcript),
            }


def chunked(transcript: Transcript) -> dict[str, Any]:
    """The transcript as transformers' speech recognition pipeline returns it, a chunk a segment, or a word if asked.

    Chunks keep the spaces before them: together they are the text. Where speakers were told apart, `speakers` are the
    chunks once more, with theirs.
    """
    pieces = [piece for segment in transcript.segments for piece in segment.words or (segment,)]
    chunks = [{"timestamp": [piece.start, piece.end], "text": piece.text} for piece in pieces]
    told = zip(pieces, chunks, strict=True)
    return {
        "text": transcript.text,
        "chunks": chunks,
        **({} if transcript.turns is None else {"speakers": [{"speaker": p.speaker} | chunk for p, chunk in told]}),
        **_warnings(transcript),
    }


def as_whisper(transcript: Transcript) -> dict[str, Any]:
    """The transcript as openai-whisper's `transcribe` returns it: the language is a code, words are in their segments.

    Token log-probabilities, which it does not know, are as in OpenAI's API.
    """
    return {
        "text": transcript.text,
        "segments": [
            _segment(number, segment) | _timed(segment.words) for number, segment in enumerate(transcript.segments)
        ],
        "language": transcript.language,
        **_logprobs(transcript),
        **_warnings(transcript),
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    return {"id": number} | segment.model_dump(exclude={"words", "logprobs"})


def _timed(words: Sequence[Word] | None) -> dict[str, Any]:
    """Words in openai-whisper's shape, with the spaces before them, when they were asked for."""
    if words is None:
        return {}
    return {"words": [{"word": word.text} | word.model_dump(exclude={"text", "tokens"}) for word in words]}


def _spoken(transcript: Transcript) -> str:
    if transcript.task == "translate":
        return "english"  # OpenAI's API names the language of the text here
    # A string in any case: typed clients read one.
    return "unknown" if transcript.language is None else language_name(transcript.language)


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"usage": {"type": "duration", "seconds": math.ceil(transcript.duration)}}


_OF_WORDS = {"start", "end", "speaker", "overlap"}


def _words(transcript: Transcript) -> dict[str, Any]:
    """Words in OpenAI's shape, without the spaces around them, when they were asked for."""
    words = [word for segment in transcript.segments for word in segment.words or ()]
    if not words:
        return {}
    return {"words": [{"word": word.text.strip()} | word.model_dump(include=_OF_WORDS) for word in words]}


def _logprobs(transcript: Transcript) -> dict[str, Any]:
    """Tokens in OpenAI's shape, when they were asked for."""
    tokens = [token for segment in transcript.segments for token in segment.logprobs or ()]
    return {"logprobs": [token.model_dump() for token in tokens]} if tokens else {}


def _warnings(transcript: Transcript) -> dict[str, Any]:
    return {"warnings": list(transcript.warnings)} if transcript.warnings else {}
