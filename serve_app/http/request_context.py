"""ASGI middleware: the request's id in every log line about it, and its metrics."""

import asyncio
import time
from collections.abc import Mapping
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.observability.logs import log_context
from serve_app.observability.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS, Metrics

REQUEST_ID_HEADER = "x-request-id"
"""Ray Serve's header: it adds one with a new id to requests without, and returns it in the response."""

REQUEST_ID = "whisper.request_id"
"""The key of the ASGI scope with the request's id."""

MAX_ID_CHARACTERS = 128
"""A client chooses its request's id; a longer one is cut in the logs."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that metrics distinguish; others are "other", because a client can send any word."""

CLIENT_CLOSED = 499
"""The status in the metrics of a request whose client left before the response; nginx's number for it."""


class RequestContextMiddleware:
    """Binds the request's id to its log lines, and records its count and duration.

    `front_by_route`: the name of the front of each path template.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, front_by_route: Mapping[str, str]) -> None:
        self.app = app
        self._metrics = metrics
        self._front_by_route = front_by_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        request_id = (Headers(scope=scope).get(REQUEST_ID_HEADER) or uuid4().hex)[:MAX_ID_CHARACTERS]
        scope[REQUEST_ID] = request_id
        started, status = time.monotonic(), 0

        async def send_and_observe(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                status = status or 403  # as servers answer a socket that is closed before it is accepted
            await send(message)

        with log_context(request_id=request_id):
            try:
                await self.app(scope, receive, send_and_observe)
            except asyncio.CancelledError:
                status = status or CLIENT_CLOSED
                raise
            finally:
                # Routing has put the route into the scope; a path that does not exist has none.
                route = getattr(scope.get("route"), "path", "")
                front = self._front_by_route.get(route, "")
                method = scope.get("method", "WebSocket")
                if scope["type"] == "http" and method not in METHODS:
                    method = "other"
                labels = {"front": front, "route": route, "method": method}
                # Without a response the application has raised an error, which becomes a 500 outside.
                self._metrics.increment(HTTP_REQUESTS, status=str(status or 500), **labels)
                self._metrics.observe(HTTP_REQUEST_SECONDS, time.monotonic() - started, front=front, route=route)
        return None
