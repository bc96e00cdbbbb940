"""Output formats of a transcript."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from serve_app.errors import InvalidRequest
from serve_app.rendering import speaker_labels, subtitles
from serve_app.rendering.subtitles import PLAIN, Layout
from serve_app.schemas.languages import language_name
from serve_app.schemas.transcript import Segment, Transcript, Word

SpeechFormat = Literal["json", "verbose_json", "diarized_json", "text", "srt", "vtt", "tsv"]
"""The formats of OpenAI's audio API, and `tsv`."""

Format = Literal[SpeechFormat, "rttm"]
"""All formats of a transcript."""

SPEAKERS: tuple[Format, ...] = ("diarized_json", "rttm")
"""The formats that need speakers."""

SUBTITLES: tuple[Format, ...] = ("srt", "vtt")
"""The formats that benefit from word timestamps."""

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
    """Raise InvalidRequest if the format needs speakers and the transcript has none."""
    if form in SPEAKERS and transcript.turns is None:
        why = "; ".join(("", *transcript.warnings))
        raise InvalidRequest(f"format {form} needs speakers: submit the job with diarization{why}", "format")


def render(transcript: Transcript, form: Format, layout: Layout = PLAIN, name: str = "audio") -> str | dict[str, Any]:
    """Return the transcript as text, or as the JSON object of OpenAI's audio API.

    `name`: the recording's name in RTTM, without spaces.
    Raises InvalidRequest for a layout that this format or this transcript does not support.
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
                "language": _language_name(transcript),
                "duration": transcript.duration,
                "text": transcript.text,
                **_words(transcript),
                "segments": [_segment(number, segment) for number, segment in enumerate(transcript.segments)],
                **_known_speakers(transcript),
                **_logprobs(transcript),
                **_usage(transcript),
                **_warnings(transcript),
            }


def chunked(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript as transformers' speech recognition pipeline does: a chunk for each segment or word.

    Chunks keep their leading spaces, so that joined they are the text. If the transcript has speakers, `speakers`
    repeats the chunks with the speaker of each.
    """
    pieces = [piece for segment in transcript.segments for piece in segment.words or (segment,)]
    chunks = [{"timestamp": [piece.start, piece.end], "text": piece.text} for piece in pieces]
    speakers = zip(pieces, chunks, strict=True)
    return {
        "text": transcript.text,
        "chunks": chunks,
        **({} if transcript.turns is None else {"speakers": [{"speaker": p.speaker} | chunk for p, chunk in speakers]}),
        **_warnings(transcript),
    }


def as_whisper(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript as openai-whisper's `transcribe` does: the language is a code, words are in their segments.

    Token log-probabilities, which openai-whisper does not have, are as in OpenAI's API.
    """
    return {
        "text": transcript.text,
        "segments": [
            _segment(number, segment) | _whisper_words(segment.words)
            for number, segment in enumerate(transcript.segments)
        ],
        "language": transcript.language,
        **_logprobs(transcript),
        **_warnings(transcript),
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    return {"id": number} | segment.model_dump(exclude={"words", "logprobs"})


def _whisper_words(words: Sequence[Word] | None) -> dict[str, Any]:
    """Return words in openai-whisper's format, with their leading spaces, if they were requested."""
    if words is None:
        return {}
    return {"words": [{"word": word.text} | word.model_dump(exclude={"text", "tokens"}) for word in words]}


def _language_name(transcript: Transcript) -> str:
    if transcript.task == "translate":
        return "english"  # OpenAI's API names the language of the text here
    # Always a string: typed clients require it.
    return "unknown" if transcript.language is None else language_name(transcript.language)


def _known_speakers(transcript: Transcript) -> dict[str, Any]:
    """Return the known speakers that were found, and how similar their voices are to the reference clips."""
    similarities = {turn.speaker: turn.similarity for turn in transcript.turns or () if turn.similarity is not None}
    found = [{"name": name, "similarity": similarity} for name, similarity in similarities.items()]
    return {"known_speakers": found} if found else {}


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"usage": {"type": "duration", "seconds": math.ceil(transcript.duration)}}


_WORD_FIELDS = {"start", "end", "speaker", "overlap"}


def _words(transcript: Transcript) -> dict[str, Any]:
    """Return words in OpenAI's format, without spaces around them, if they were requested."""
    words = [word for segment in transcript.segments for word in segment.words or ()]
    if not words:
        return {}
    return {"words": [{"word": word.text.strip()} | word.model_dump(include=_WORD_FIELDS) for word in words]}


def _logprobs(transcript: Transcript) -> dict[str, Any]:
    """Return tokens in OpenAI's format, if they were requested."""
    tokens = [token for segment in transcript.segments for token in segment.logprobs or ()]
    return {"logprobs": [token.model_dump() for token in tokens]} if tokens else {}


def _warnings(transcript: Transcript) -> dict[str, Any]:
    return {"warnings": list(transcript.warnings)} if transcript.warnings else {}
