"""A transcript in the shapes clients ask for."""

import math
from typing import Any, Literal

from serve_app import subtitles
from serve_app.errors import InvalidRequest
from serve_app.languages import language_name
from serve_app.subtitles import PLAIN, Layout
from serve_app.transcript import Transcript

Format = Literal["json", "verbose_json", "text", "srt", "vtt", "tsv"]

MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "tsv": "text/tab-separated-values",
}


def render(transcript: Transcript, form: Format, layout: Layout = PLAIN) -> str | dict[str, Any]:
    """The transcript as text, or as the JSON object OpenAI's audio API answers with.

    Raises InvalidRequest for a layout that this format or this transcript can't have.
    """
    if layout.asked and form not in ("srt", "vtt"):
        raise InvalidRequest(f"{layout.asked[0]} is for the formats srt and vtt, not {form}", layout.asked[0])
    match form:
        case "srt":
            return subtitles.srt(transcript, layout)
        case "vtt":
            return subtitles.vtt(transcript, layout)
        case "tsv":
            return subtitles.tsv(transcript)
        case "text":
            return transcript.text + "\n"
        case "json":
            return {"text": transcript.text} | _logprobs(transcript) | _usage(transcript) | _warnings(transcript)
        case "verbose_json":
            return {
                "task": transcript.task,
                "language": _spoken(transcript),
                "duration": transcript.duration,
                "text": transcript.text,
                **_words(transcript),
                "segments": [
                    {"id": number} | segment.model_dump(exclude={"words", "logprobs"})
                    for number, segment in enumerate(transcript.segments)
                ],
                **_logprobs(transcript),
                **_usage(transcript),
                **_warnings(transcript),
            }


def _spoken(transcript: Transcript) -> str:
    if transcript.task == "translate":
        return "english"  # OpenAI's API names the language of the text here
    # A string in any case: typed clients read one.
    return "unknown" if transcript.language is None else language_name(transcript.language)


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"usage": {"type": "duration", "seconds": math.ceil(transcript.duration)}}


def _words(transcript: Transcript) -> dict[str, Any]:
    """Words in OpenAI's shape, without the spaces around them, when they were asked for."""
    words = [word for segment in transcript.segments for word in segment.words or ()]
    if not words:
        return {}
    return {"words": [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in words]}


def _logprobs(transcript: Transcript) -> dict[str, Any]:
    """Tokens in OpenAI's shape, when they were asked for."""
    tokens = [token for segment in transcript.segments for token in segment.logprobs or ()]
    return {"logprobs": [token.model_dump() for token in tokens]} if tokens else {}


def _warnings(transcript: Transcript) -> dict[str, Any]:
    return {"warnings": list(transcript.warnings)} if transcript.warnings else {}
