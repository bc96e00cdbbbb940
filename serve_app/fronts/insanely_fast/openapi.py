"""OpenAPI entries of the Insanely-Fast-Whisper API."""

from typing import Any

from serve_app.fronts.insanely_fast.errors import ERROR_FORMAT
from serve_app.fronts.insanely_fast.schemas import TaskResponse, TaskStatus
from serve_app.http.openapi.document import Responses, response
from serve_app.http.openapi.examples import TRANSCRIPT
from serve_app.rendering.formats import chunked

_HEADERS = ("Location", "Preference-Applied")
_COMPLETED = {"status": "completed", "output": chunked(TRANSCRIPT)}
_ERROR = {"status": "error", "error": "the URL answered 404 Not Found"}
_CANCELLED = {"status": "cancelled"}
_BACKGROUND = {
    "detail": "Task is being processed in the background",
    "status": "processing",
    "task_id": "call-17",
}

TASK_EXAMPLES: dict[str, Any] = {
    "wait": {"value": {"url": "https://example.com/talk.mp3", "timestamp": "word"}},
    "webhook": {
        "value": {
            "url": "https://example.com/talk.mp3",
            "is_async": True,
            "webhook": {"url": "https://example.com/done", "header": {"x-tenant": "7"}},
            "managed_task_id": "call-17",
        }
    },
}

TRANSCRIBE: Responses = ERROR_FORMAT.responses(408, 409, 422, 429) | {
    200: response(
        "The transcript; with `is_async` the confirmation that it will be sent to the webhook.",
        _COMPLETED | {"task_id": "call-17"},
        _BACKGROUND,
        headers=_HEADERS,
        model=TaskResponse,
    ),
    202: response("The task runs in the background, as preferred.", _BACKGROUND, headers=_HEADERS, model=TaskResponse),
}
TASKS: Responses = ERROR_FORMAT.responses() | {200: response("The ids, oldest first.", {"tasks": ["call-17"]})}
STATUS: Responses = ERROR_FORMAT.responses(404) | {
    200: response("The status of the task.", {"status": "processing"}, _COMPLETED, _ERROR, _CANCELLED, model=TaskStatus)
}
CANCEL: Responses = ERROR_FORMAT.responses(404) | {
    200: response("The status of the task after the request.", _CANCELLED, _COMPLETED, _ERROR, model=TaskStatus)
}
