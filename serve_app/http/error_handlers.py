"""Exception handlers: every error of every path becomes a response in the error format of its front."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Scope

from serve_app.errors import InvalidRequest, NotFound, ServiceError
from serve_app.http.error_format import ErrorRenderer, as_invalid_request
from serve_app.http.request_context import REQUEST_ID
from serve_app.http.websockets import close_or_respond
from serve_app.observability.logs import log_context

BODY_TOO_LARGE = "body_too_large"

logger = logging.getLogger(__name__)


def as_service_error(error: Exception, operation: str) -> ServiceError:
    """Return an error that clients may read; any error but a ServiceError is logged as a failure of `operation`."""
    if isinstance(error, ServiceError):
        return error
    logger.error("%s failed", operation, exc_info=error)
    return ServiceError("internal error; it has been logged", None, "internal_error")


def install_error_handlers(app: FastAPI, render: ErrorRenderer) -> None:
    """Answer every exception of `app` with the response that `render` makes for its request."""

    @app.exception_handler(ServiceError)
    async def handle_service_error(connection: HTTPConnection, error: ServiceError) -> ASGIApp | None:
        return await close_or_respond(connection, render(connection.scope, error))

    @app.exception_handler(RequestValidationError)
    async def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
        return render(request.scope, as_invalid_request(error))

    @app.exception_handler(HTTPException)
    async def handle_http_exception(connection: HTTPConnection, error: HTTPException) -> ASGIApp | None:
        return await close_or_respond(connection, _http_error_response(app, connection, error, render))

    @app.exception_handler(Exception)
    async def handle_unexpected_error(request: Request, error: Exception) -> Response:
        # Starlette calls this outside of all middleware, and so of its log context.
        with log_context(request_id=request.scope[REQUEST_ID]):
            return render(request.scope, as_service_error(error, f"{request.method} {request.url.path}"))


def _http_error_response(
    app: FastAPI, connection: HTTPConnection, error: HTTPException, render: ErrorRenderer
) -> Response:
    scope = connection.scope
    if error.status_code == 404:
        method = scope.get("method", "WebSocket")
        return render(scope, NotFound(f"there is no {method} {connection.url.path}", None, "not_found"))
    invalid = InvalidRequest(str(error.detail), None, BODY_TOO_LARGE if error.status_code == 413 else None)
    invalid.status = error.status_code
    response = render(scope, invalid)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(_allowed_methods(app, scope))
    return response


def _allowed_methods(app: FastAPI, scope: Scope) -> list[str]:
    """Return the methods of a path. Starlette names only those of the first route that matches."""
    return [
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        if any(route.matches(dict(scope, method=method))[0] is Match.FULL for route in app.routes)
    ]
