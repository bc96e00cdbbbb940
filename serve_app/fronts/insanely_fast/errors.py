"""Errors of the Insanely-Fast-Whisper API: `{"detail": …}`."""

import re

from fastapi.responses import JSONResponse

from serve_app.errors import ServiceError
from serve_app.http.error_format import Detail, ErrorFormat, error_headers, message_with_field


def render(error: ServiceError) -> JSONResponse:
    """Return an error as a response, with the messages of the original and the names of this front's fields."""
    match error.code, error.param:
        case "invalid_api_key", _:
            detail = "Unauthorized"
        case "invalid_url", "url":
            detail = "Invalid URL"
        case "not_found", "job_id":
            detail = "Task not found"
        case "invalid_header", _:
            detail = error.message.replace("webhook.headers", "webhook.header", 1)
        case "diarization_off", _:
            detail = error.message.replace("diarization", "diarise_audio", 1)
        case _, "id" | "job_id":
            detail = f"managed_task_id: {error.message}"
        case _:
            detail = message_with_field(error)
    return JSONResponse(Detail(detail=detail).model_dump(), error.status, error_headers(error))


ERROR_FORMAT = ErrorFormat(re.compile(r"/|/tasks|/(status|cancel)/[^/]+"), render)
