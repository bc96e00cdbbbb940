"""Limits of requests: the size of the head, the size of the body while it is read, the charset."""

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import HeadersTooLarge, InvalidRequest, TooLarge, UnsupportedMediaType
from serve_app.http.error_format import ErrorRenderer
from serve_app.http.error_handlers import BODY_TOO_LARGE

MAX_HEAD_BYTES = 2**16
"""Of a URL and all headers: the limit of h11. httptools, which Serve's proxy reads with, has none."""


def charset_of(content_type: str) -> str:
    """The charset a content type names, in lower case; utf-8 if none."""
    # Not with `email.message`, which takes quadratic time for semicolons in Python 3.11 and 3.12.
    _, parameters = parse_options_header(content_type)
    return parameters.get(b"charset", b"").decode("latin-1").lower() or "utf-8"


def require_json(request: Request) -> None:
    """A dependency of routes that read JSON and nothing else: 415 for what does not say it is."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise UnsupportedMediaType(f"content-type {given!r}: send application/json", "content-type")


def no_unknown_query(request: Request) -> None:
    """A dependency of every route: a POST takes no parameter in its URL but those it declares, which refuses others."""
    if request.method == "POST" and not request.scope["route"].dependant.query_params:
        for name in request.query_params:
            raise InvalidRequest(f"unknown parameter {name!r} in the URL", name, "extra_forbidden")


def head_bytes(scope: Scope) -> int:
    """The bytes of a request's path, query and headers."""
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return len(scope["path"].encode()) + len(scope["query_string"]) + headers


class BodyLimit:
    """ASGI middleware: 413 for a body over `max_bytes`, declared or not; 415 for text that is not utf-8.

    431 for a URL and headers over `MAX_HEAD_BYTES`, before anything reads them.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, refuse: ErrorRenderer) -> None:
        self.app = app
        self._refuse = refuse
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if head_bytes(scope) > MAX_HEAD_BYTES:
            head_too_large = HeadersTooLarge(f"the URL and headers are over the limit of {MAX_HEAD_BYTES} bytes")
            return await self._refuse(scope, head_too_large)(scope, receive, send)
        headers = Headers(scope=scope)
        charset = charset_of(headers.get("content-type", ""))
        if charset not in ("utf-8", "utf8"):
            error = UnsupportedMediaType(f"charset {charset!r}: send text as utf-8", "content-type")
            return await self._refuse(scope, error)(scope, receive, send)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            too_large = TooLarge(self._message(), None, BODY_TOO_LARGE)
            return await self._refuse(scope, too_large)(scope, receive, send)
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                # FastAPI lets only this class of exception through its body parsing.
                raise HTTPException(413, self._message())
            return message

        return await self.app(scope, counted, send)

    def _message(self) -> str:
        return f"the request body is over the limit of {self.max_bytes} bytes"
