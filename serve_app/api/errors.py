"""Every error of every path as `{"error": {"message", "type", "param", "code"}}`."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from serve_app.errors import InvalidRequest, NotFound, ServiceError

BODY_TOO_LARGE = "body_too_large"

RETRY_AFTER_S = 5
"""What a client is told to wait: enough for some jobs of a full queue to have ended, or a process to be back."""

_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # A recording that takes too long does so again: OpenAI's clients would send it twice more.
    408: {"x-should-retry": "false"},
    429: {"Retry-After": str(RETRY_AFTER_S)},
    503: {"Retry-After": str(RETRY_AFTER_S)},
}

logger = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What was wrong: in words, its kind, the field, and a stable word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a 2xx."""

    error: ErrorDetail


def invalid(error: ValidationError | RequestValidationError) -> InvalidRequest:
    """The first thing wrong with a request, as an error that names its field."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(path) or None
    match first["type"]:
        case "extra_forbidden":
            message = f"unknown field {param!r}"
        case "missing":
            message = f"{param} is required" if param else "a request body is required"
        case _:
            message = first["msg"].removeprefix("Value error, ")
            message = f"{param}: {message}" if param else message
    return InvalidRequest(message, param, first["type"])


def body_of(error: ServiceError) -> ErrorBody:
    """What a client reads of an error."""
    return ErrorBody(error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))


def known(error: Exception, what: str) -> ServiceError:
    """An error as one that can be told; what is none of ours is logged, with `what` has failed."""
    if isinstance(error, ServiceError):
        return error
    logger.error("%s failed", what, exc_info=error)
    return ServiceError("internal error; it has been logged", None, "internal_error")


def answer(error: ServiceError) -> JSONResponse:
    """The HTTP answer for an error."""
    return JSONResponse(body_of(error).model_dump(), error.status, _HEADERS.get(error.status))


def install(app: FastAPI) -> None:
    """Make every failure of `app` answer in that shape."""

    @app.exception_handler(ServiceError)
    async def told(_: Request, error: ServiceError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(invalid(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return answer(NotFound(f"there is no {request.method} {request.url.path}", None, "not_found"))
        code = BODY_TOO_LARGE if error.status_code == 413 else None
        refused = InvalidRequest(str(error.detail), None, code)
        refused.status = error.status_code
        response = answer(refused)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(known(error, f"{request.method} {request.url.path}"))


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the error answers a path may give."""
    return {status: {"model": ErrorBody} for status in (400, 401, 413, *statuses)}
