"""Errors of Tiyaro's API: `{"code", "message"}`."""

import re

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from serve_app.errors import ServiceError
from serve_app.http.error_format import ErrorFormat, error_headers, message_with_field
from serve_app.schemas.job import JobError


class Error(BaseModel):
    """An error; `code` is an HTTP status."""

    code: int
    message: str

    @classmethod
    def of(cls, error: ServiceError | JobError) -> "Error":
        """Return an error in this shape."""
        return cls(code=error.status, message=message_with_field(error))


def render(error: ServiceError) -> JSONResponse:
    """Return an error as a response."""
    return JSONResponse(Error.of(error).model_dump(), error.status, error_headers(error))


ERROR_FORMAT = ErrorFormat(re.compile(r"/v1/input/upload-url|/v1/async/.*"), render, Error)
