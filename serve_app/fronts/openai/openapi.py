"""OpenAPI entries of OpenAI's audio API."""

from typing import Any

from serve_app.fronts.common.transcripts import TRANSCRIPT_ENTRY
from serve_app.fronts.openai.schemas import Model, ModelList
from serve_app.fronts.openai.stream import encode_item
from serve_app.http.error_format import COMMON
from serve_app.http.openapi.document import Responses, response, response_headers
from serve_app.http.openapi.examples import QUEUED, TRANSCRIPT
from serve_app.jobs.view import JobView, to_view
from serve_app.schemas.transcript import TextDelta

_HEADERS = ("Location", "Preference-Applied")
_ITEMS = (TextDelta(text="three one"), TextDelta(text=" four"), TRANSCRIPT)
_EVENTS = b"".join(event for item in _ITEMS for event in encode_item(item, "json")).decode()
_CONTENT: dict[str, Any] = TRANSCRIPT_ENTRY["content"] | {"text/event-stream": {"example": _EVENTS}}
_MODEL = Model(id="whisper-1")

TRANSCRIBE: Responses = COMMON.responses(404, 408, 409, 429) | {
    200: TRANSCRIPT_ENTRY | {"content": _CONTENT, "headers": response_headers(*_HEADERS)},
    202: response(
        "The job, which runs in the background, as preferred.",
        to_view(QUEUED).model_dump(mode="json"),
        headers=_HEADERS,
        model=JobView,
    ),
}
MODELS: Responses = COMMON.responses() | {
    200: response("All names of all served models.", ModelList(data=[_MODEL]).model_dump(exclude_none=True))
}
MODEL: Responses = COMMON.responses(404) | {200: response("The model.", _MODEL.model_dump(exclude_none=True))}
