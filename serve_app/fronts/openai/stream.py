"""Streamed transcripts as the events of OpenAI's API."""

import json
from collections.abc import Iterator
from typing import Any

from fastapi.sse import format_sse_event

from serve_app.rendering.formats import SPEAKERS, Format, render
from serve_app.rendering.speaker_labels import diarized_segments
from serve_app.schemas.transcript import TextDelta, Transcript


def encode_item(item: TextDelta | Transcript, form: Format) -> Iterator[bytes]:
    """Yield the server-sent events of an item of a stream: a delta, or the segments and the text of the transcript."""
    if isinstance(item, Transcript):
        if form in SPEAKERS:  # segments have speakers only at the end
            yield from map(encode_event, diarized_segments(item))
        done = render(item, "json")
        assert isinstance(done, dict)
        yield encode_event({"type": "transcript.text.done"} | done)
        return
    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": item.text}
    if item.logprobs is not None:
        event["logprobs"] = [token.model_dump() for token in item.logprobs]
    yield encode_event(event)


def encode_event(data: dict[str, Any], event: str | None = None) -> bytes:
    """Return a server-sent event with JSON data."""
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=event)
