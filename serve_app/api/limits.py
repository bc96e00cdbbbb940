"""What a request's body may be: its size, kept while it is read, and its charset."""

from email.message import Message as Header

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.dialect import Refuse
from serve_app.api.errors import BODY_TOO_LARGE
from serve_app.errors import InvalidRequest, TooLarge, UnsupportedMediaType


def charset_of(content_type: str) -> str:
    """The charset a content type names, in lower case; utf-8 if none."""
    header = Header()
    header["content-type"] = content_type
    return (header.get_content_charset() or "utf-8").lower()


def only_json(request: Request) -> None:
    """A dependency of routes that read JSON and nothing else: 415 for what does not say it is."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise UnsupportedMediaType(f"content-type {given!r}: send application/json", "content-type")


def no_unknown_query(request: Request) -> None:
    """A dependency of every route: a POST takes no parameter in its URL but those it declares, which refuses others."""
    if request.method == "POST" and not request.scope["route"].dependant.query_params:
        for name in request.query_params:
            raise InvalidRequest(f"unknown parameter {name!r} in the URL", name, "extra_forbidden")


class BodyLimit:
    """ASGI middleware: 413 for a body over `max_bytes`, declared or not; 415 for text that is not utf-8."""

    def __init__(self, app: ASGIApp, max_bytes: int, refuse: Refuse) -> None:
        self.app = app
        self._refuse = refuse
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
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
