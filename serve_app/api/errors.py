"""Every error of every path as `{"error": {"message", "type", "param", "code"}}`."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from serve_app.errors import InvalidRequest, NotFound, Overloaded, ServiceError

BODY_TOO_LARGE = "body_too_large"

RETRY_AFTER_S = 5
"""What a client is told to wait when the queue is full: enough for some jobs to have ended."""

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


def answer(error: ServiceError) -> JSONResponse:
    """The HTTP answer for an error."""
    body = ErrorBody(error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse(body.model_dump(), error.status, headers)


def install(app: FastAPI) -> None:
    """Make every failure of `app` answer in that shape."""

    @app.exception_handler(ServiceError)
    async def known(_: Request, error: ServiceError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(invalid(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return answer(NotFound(f"there is no {request.method} {request.url.path}", None, "not_found"))
        code = BODY_TOO_LARGE if error.status_code == 413 else None
        known = InvalidRequest(str(error.detail), None, code)
        known.status = error.status_code
        response = answer(known)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(ServiceError("internal error; it has been logged", None, "internal_error"))


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the error answers a path may give."""
    return {status: {"model": ErrorBody} for status in (400, 401, 413, *statuses)}
