"""Every error of every path, as `{"error": {"message", "type", "param", "code"}}` unless a front has its own shape."""

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from serve_app.errors import InvalidRequest, NotFound, ServiceError
from serve_app.http.openapi.document import EVERYWHERE, Entries, error_responses
from serve_app.schemas.job import JobError

BODY_TOO_LARGE = "body_too_large"

RETRY_AFTER_S = 5
"""Seconds of `Retry-After`: enough for some jobs of a full queue to end, or for a process to restart."""

_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # A recording that takes too long does so again: OpenAI's clients would send it twice more.
    408: {"x-should-retry": "false"},
    429: {"Retry-After": str(RETRY_AFTER_S)},
    503: {"Retry-After": str(RETRY_AFTER_S)},
}

logger = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """An error: a message, its type, the field, and a stable code for programs."""

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
    # FastAPI puts before the field where it was: in the body, the query, the path, a header.
    path = first["loc"][1:] if isinstance(error, RequestValidationError) else first["loc"]
    param = ".".join(map(str, path)) or None
    match first["type"]:
        case "model_attributes_type" if param is None:
            message = "the body is not a JSON object, or its content-type is not application/json"
        case "json_invalid" if not path or isinstance(path[0], int):  # a place in the body's text, not a field
            message, param = f"the body is not JSON: {first['ctx']['error']}", None
        case "extra_forbidden":
            message = f"unknown field {param!r}"
        case "missing":
            message = f"{param} is required" if param else "a request body is required"
        case _:
            message = first["msg"].removeprefix("Value error, ")
            message = f"{param}: {message}" if param else message
    return InvalidRequest(message, param, first["type"])


def body_of(error: ServiceError) -> ErrorBody:
    """The body of an error response."""
    return ErrorBody(error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))


def as_service_error(error: Exception, what: str) -> ServiceError:
    """An error as one that can be told; what is none of ours is logged, with `what` has failed."""
    if isinstance(error, ServiceError):
        return error
    logger.error("%s failed", what, exc_info=error)
    return ServiceError("internal error; it has been logged", None, "internal_error")


def answer(error: ServiceError) -> JSONResponse:
    """The HTTP answer for an error."""
    return JSONResponse(body_of(error).model_dump(), error.status, headers_of(error))


def with_field(error: ServiceError | JobError) -> str:
    """The message of an error with its field named, for bodies that have no other place for it."""
    named = error.param is None or error.param.lower() in error.message.lower()
    return error.message if named else f"{error.param}: {error.message}"


def headers_of(error: ServiceError) -> dict[str, str]:
    """The headers that go with an error, whatever its body's shape."""
    return _HEADERS.get(error.status, {})


def install(app: FastAPI, refuse: Callable[[Scope, ServiceError], Response]) -> None:
    """Make every failure of `app` answer in the shape that `refuse` has for its request."""

    @app.exception_handler(ServiceError)
    async def told(request: Request, error: ServiceError) -> Response:
        return refuse(request.scope, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return refuse(request.scope, invalid(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404:
            return refuse(request.scope, NotFound(f"there is no {request.method} {path}", None, "not_found"))
        code = BODY_TOO_LARGE if error.status_code == 413 else None
        refused = InvalidRequest(str(error.detail), None, code)
        refused.status = error.status_code
        response = refuse(request.scope, refused)
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods(app, request.scope))
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return refuse(request.scope, as_service_error(error, f"{request.method} {request.url.path}"))


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """Those that its path has; of several routes Starlette names only the first one's."""
    return [
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        if any(route.matches(dict(scope, method=method))[0] is Match.FULL for route in app.routes)
    ]


def responses(*statuses: int) -> Entries:
    """The OpenAPI entries of the errors a path of this shape may answer with, beside those that any may."""
    return error_responses(answer, ErrorBody, *EVERYWHERE, *statuses)
