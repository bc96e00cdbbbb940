"""Errors of Serve's own proxy, when it has no application yet or has lost a process, in our error format.

Serve says 404 of every path until the application is deployed: to a client that asks for its job, that reads as if
it had been forgotten. Of a replica that dies it says nothing, and the server under it 500. Serve calls `middlewares`
by its name in the environment: see `launch.start_ray`.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import Unavailable
from serve_app.http.error_format import error_response

ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}
"""Has Serve's proxies use this module."""


def middlewares() -> list[Middleware]:
    """The ASGI middleware that Serve's proxies are wrapped in."""
    return [Middleware(ProxyErrorMiddleware)]


class ProxyErrorMiddleware:
    """Answers 503 where Serve has no answer of the application: those that are Serve's own are plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Serve's own paths
            await self._app(scope, receive, send)
            return
        error: Unavailable | None = Unavailable("what worked at this has died: try again", None, "unavailable")

        async def ours(message: Message) -> None:
            nonlocal error
            if message["type"] == "http.response.start":
                error = _error(message)
            if error is None:
                await send(message)

        await self._app(scope, receive, ours)
        if error is not None:
            response = error_response(error)
            # Serve, which is asked first, has given the request an id.
            response.headers["x-request-id"] = Headers(scope=scope).get("x-request-id", "")
            await response(scope, receive, send)


def _error(start: Message) -> Unavailable | None:
    if Headers(raw=start["headers"]).get("content-type", "").startswith("text/plain"):
        match start["status"]:
            case 404:
                return Unavailable("the service is starting: try again", None, "starting")
            case 503:
                return Unavailable("the service is unavailable: try again", None, "unavailable")
    return None
