"""A transcript in the shapes clients ask for."""

import math
from typing import Any, Literal

from serve_app.languages import language_name
from serve_app.transcript import Transcript

Format = Literal["json", "text", "verbose_json"]


def render(transcript: Transcript, form: Format) -> str | dict[str, Any]:
    """The transcript as text, or as the JSON object OpenAI's audio API answers with."""
    match form:
        case "text":
            return transcript.text + "\n"
        case "json":
            return {"text": transcript.text, "usage": _usage(transcript)} | _warnings(transcript)
        case "verbose_json":
            return {
                "task": transcript.task,
                "language": _spoken(transcript),
                "duration": transcript.duration,
                "text": transcript.text,
                "segments": [{"id": i} | segment.model_dump() for i, segment in enumerate(transcript.segments)],
                "usage": _usage(transcript),
            } | _warnings(transcript)


def _spoken(transcript: Transcript) -> str:
    if transcript.task == "translate":
        return "english"  # OpenAI's API names the language of the text here
    # A string in any case: typed clients read one.
    return "unknown" if transcript.language is None else language_name(transcript.language)


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _warnings(transcript: Transcript) -> dict[str, Any]:
    return {"warnings": list(transcript.warnings)} if transcript.warnings else {}
