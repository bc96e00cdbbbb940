"""What Serve's proxy answers itself, when it knows no application yet or has lost one's process, as an error of ours.

Serve says 404 of every path until the application is deployed: to a client that asks for its job, that reads as if
it had been forgotten. It says 500 when a replica dies; a client may well send that again. Serve calls `middlewares`
by its name in the environment: see `launch.start_ray`.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.errors import answer
from serve_app.errors import ServiceError, Unavailable

ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}
"""Has Serve's proxies use this module."""


def middlewares() -> list[Middleware]:
    """What the proxies put around themselves."""
    return [Middleware(OurErrors)]


class OurErrors:
    """Replaces the errors that are Serve's: they are plain text, and all of the application's are JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Serve's own paths
            await self._app(scope, receive, send)
            return
        error: ServiceError | None = None

        async def translated(message: Message) -> None:
            nonlocal error
            if message["type"] == "http.response.start":
                error = _error(message)
                if error is not None:
                    await answer(error)(scope, receive, send)
            if error is None:
                await send(message)

        await self._app(scope, receive, translated)


def _error(start: Message) -> ServiceError | None:
    plain = Headers(raw=start["headers"]).get("content-type", "").startswith("text/plain")
    match start["status"]:
        case 404 if plain:
            return Unavailable("the service is starting: try again", None, "starting")
        case 500 | 503 if plain:
            return Unavailable("a process of the service is away for the moment: try again", None, "unavailable")
    return None
