"""Limits of requests: the size of URL and headers, the size of the body while it is read, the charset."""

from python_multipart.multipart import parse_options_header
from starlette import status
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import HeadersTooLarge, InvalidRequest, ServiceError, TooLarge, UnsupportedMediaType
from serve_app.http.error_format import ErrorRenderer
from serve_app.http.error_handlers import BODY_TOO_LARGE
from serve_app.http.websockets import as_denial

MAX_HEAD_BYTES = 2**16
"""Limit of a URL and all headers, the same as h11's. httptools, which Serve's proxy uses, has no limit."""


def charset_of(content_type: str) -> str:
    """Return the charset that a content type names, in lower case; utf-8 if it names none."""
    # Not with `email.message`, which takes quadratic time for semicolons in Python 3.11 and 3.12.
    _, parameters = parse_options_header(content_type)
    return parameters.get(b"charset", b"").decode("latin-1").lower() or "utf-8"


def require_json(request: Request) -> None:
    """Dependency of routes that read only JSON: 415 for any other content type."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise UnsupportedMediaType(f"content-type {given!r}: send application/json", "content-type")


def reject_unknown_query(connection: HTTPConnection) -> None:
    """Dependency of every route: 400 for query parameters of a POST whose route declares none.

    A route that declares some rejects unknown ones by itself.
    """
    if connection.scope.get("method") == "POST" and not connection.scope["route"].dependant.query_params:
        for name in connection.query_params:
            raise InvalidRequest(f"unknown parameter {name!r} in the URL", name, "extra_forbidden")


def head_bytes(scope: Scope) -> int:
    """Return the size of a request's path, query and headers in bytes."""
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return len(scope["path"].encode()) + len(scope["query_string"]) + headers


class RequestLimitMiddleware:
    """ASGI middleware: 431 for a URL and headers over `MAX_HEAD_BYTES`, 413 for a body over `max_bytes`, whether its
    length is declared or not, 415 for text in another charset than utf-8.

    A WebSocket is closed with 1009 at a message over `max_bytes`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, render: ErrorRenderer) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        error = self._check_head(scope)
        if error is not None:
            return await as_denial(scope, self._render(scope, error))(scope, receive, send)
        limited = self._limit_body(receive) if scope["type"] == "http" else self._limit_messages(receive, send)
        return await self.app(scope, limited, send)

    def _check_head(self, scope: Scope) -> ServiceError | None:
        if head_bytes(scope) > MAX_HEAD_BYTES:
            return HeadersTooLarge(f"the URL and headers are over the limit of {MAX_HEAD_BYTES} bytes")
        headers = Headers(scope=scope)
        charset = charset_of(headers.get("content-type", ""))
        if charset not in ("utf-8", "utf8"):
            return UnsupportedMediaType(f"charset {charset!r}: send text as utf-8", "content-type")
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            return TooLarge(self._message(), None, BODY_TOO_LARGE)
        return None

    def _limit_body(self, receive: Receive) -> Receive:
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                # FastAPI lets only this class of exception through its body parsing.
                raise HTTPException(413, self._message())
            return message

        return receive_limited

    def _limit_messages(self, receive: Receive, send: Send) -> Receive:
        async def receive_limited() -> Message:
            message = await receive()
            if len(message.get("bytes") or (message.get("text") or "").encode()) <= self.max_bytes:
                return message
            await send({"type": "websocket.close", "code": status.WS_1009_MESSAGE_TOO_BIG})
            return {"type": "websocket.disconnect", "code": status.WS_1009_MESSAGE_TOO_BIG}

        return receive_limited

    def _message(self) -> str:
        return f"the request body is over the limit of {self.max_bytes} bytes"
