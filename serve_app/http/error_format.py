"""Error formats: the shape of error responses, common to all paths unless a front defines its own."""

import re
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from serve_app.errors import InvalidRequest, ServiceError
from serve_app.http.openapi.document import COMMON_STATUSES, Responses, error_responses
from serve_app.schemas.job import JobError

RETRY_AFTER_S = 5
"""Seconds of `Retry-After`: enough for some jobs of a full queue to end, or for a process to restart."""

_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # A recording that timed out would time out again: OpenAI's clients would send it twice more.
    408: {"x-should-retry": "false"},
    429: {"Retry-After": str(RETRY_AFTER_S)},
    503: {"Retry-After": str(RETRY_AFTER_S)},
}

ErrorRenderer = Callable[[Scope, ServiceError], Response]
"""Renders an error in the format of a request's front. It reads the scope, as some errors precede routing."""


class ErrorDetail(BaseModel):
    """An error: a message, its type, the field, and a stable code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of an error response in the common format."""

    error: ErrorDetail


class Detail(BaseModel):
    """The body of an error response as a single message."""

    detail: str


@dataclass(frozen=True)
class ErrorFormat:
    """The error format of a front: `render` makes responses with a `body`, for paths that `paths` matches completely.

    `header`: only requests with this header match; without it the path belongs to another front.
    `wildcard`: a path parameter, and group of `paths`, that may be any name but a path prefix of a front.
    """

    paths: re.Pattern[str]
    render: Callable[[ServiceError], Response]
    body: type[BaseModel] = Detail
    header: str | None = None
    wildcard: str | None = None

    def matches(self, scope: Scope) -> bool:
        """Return whether a request belongs to this front."""
        if self.header is not None and self.header not in Headers(scope=scope):
            return False
        match = self.paths.fullmatch(scope["path"])
        return match is not None and not self._is_reserved(scope, match.groupdict())

    def responses(self, *statuses: int) -> Responses:
        """Return the OpenAPI entries of a path's errors: these statuses and those that any path may answer with."""
        return error_responses(self.render, self.body, *COMMON_STATUSES, *statuses)

    @property
    def route(self) -> type[APIRoute]:
        """The class of the front's routes (`APIRouter(route_class=…)`)."""
        return self.route_with_header(self.header, present=True)

    def route_with_header(self, header: str | None, present: bool) -> type[APIRoute]:
        """Return a class of routes that match only requests with the header, or only requests without it."""
        render, is_reserved = self.render, self._is_reserved

        class Route(APIRoute):
            def matches(self, scope: Scope) -> tuple[Match, Scope]:
                if header is not None and (header in Headers(scope=scope)) != present:
                    return Match.NONE, {}
                match, child_scope = super().matches(scope)
                if match is not Match.NONE and is_reserved(scope, child_scope["path_params"]):
                    return Match.NONE, {}
                return match, child_scope

            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def handle_with_errors(request: Request) -> Response:
                    try:
                        return await handle(request)
                    except RequestValidationError as error:
                        return render(as_invalid_request(error))
                    except ServiceError as error:
                        return render(error)

                return handle_with_errors

        return Route

    def _is_reserved(self, scope: Scope, parameters: dict[str, Any]) -> bool:
        name = parameters.get(self.wildcard or "")
        return name is not None and name in scope["app"].state.path_prefixes


def as_invalid_request(error: ValidationError | RequestValidationError) -> InvalidRequest:
    """Return the first validation error as an InvalidRequest that names its field."""
    first = error.errors()[0]
    # FastAPI puts the field's place before it: the body, the query, the path, a header.
    path = first["loc"][1:] if isinstance(error, RequestValidationError) else first["loc"]
    param = ".".join(map(str, path)) or None
    match first["type"]:
        case "model_attributes_type" if param is None:
            message = "the body is not a JSON object, or its content-type is not application/json"
        case "json_invalid" if not path or isinstance(path[0], int):  # an offset in the body's text, not a field
            message, param = f"the body is not JSON: {first['ctx']['error']}", None
        case "extra_forbidden":
            message = f"unknown field {param!r}"
        case "missing":
            message = f"{param} is required" if param else "a request body is required"
        case _:
            message = first["msg"].removeprefix("Value error, ")
            message = f"{param}: {message}" if param else message
    return InvalidRequest(message, param, first["type"])


def error_body(error: ServiceError) -> ErrorBody:
    """Return an error as a body of the common format."""
    return ErrorBody(error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))


def error_headers(error: ServiceError) -> dict[str, str]:
    """Return the headers of an error response, in whatever format its body is."""
    return _HEADERS.get(error.status, {})


def error_response(error: ServiceError) -> JSONResponse:
    """Return an error as a response of the common format."""
    return JSONResponse(error_body(error).model_dump(), error.status, error_headers(error))


def message_with_field(error: ServiceError | JobError) -> str:
    """Return an error's message with its field named, for bodies that have no other place for the field."""
    has_field = error.param is None or error.param.lower() in error.message.lower()
    return error.message if has_field else f"{error.param}: {error.message}"


COMMON = ErrorFormat(re.compile(r".*", re.DOTALL), error_response, ErrorBody)
"""`{"error": {"message", "type", "param", "code"}}`: the format of every path that has no other."""


def error_renderer(formats: Iterable[ErrorFormat]) -> ErrorRenderer:
    """Return a renderer that uses the first of these formats that matches a request, else the common one."""
    # A format that requires a header is more specific than another one for the same path.
    by_precedence = [*sorted(formats, key=lambda error_format: error_format.header is None), COMMON]

    def render(scope: Scope, error: ServiceError) -> Response:
        return next(found for found in by_precedence if found.matches(scope)).render(error)

    return render
