"""Errors of OctoAI's endpoints: `{"detail": …}`, with the request's id in a header."""

import re
from uuid import uuid4

from fastapi.responses import JSONResponse

from serve_app.errors import ServiceError
from serve_app.http.error_format import Detail, ErrorFormat, error_headers, message_with_field

REQUEST_ID = "X-User-Request-ID"
"""The header of every response with the id of the request, and its job. The SDK's errors show it to the user."""


def render(error: ServiceError, request_id: str | None = None) -> JSONResponse:
    """Return an error as a response. `request_id`: the job's id; None if there is no job yet."""
    headers = error_headers(error) | {REQUEST_ID: request_id or uuid4().hex}
    return JSONResponse(Detail(detail=message_with_field(error)).model_dump(), error.status, headers)


# The poll and response URLs have OctoAI's own paths, as clients without the SDK build them themselves.
ERROR_FORMAT = ErrorFormat(re.compile(r"/infer|/v1/(requests|responses)/[^/]+"), render)
