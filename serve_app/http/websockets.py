"""Refusals of WebSockets: an HTTP response before the handshake, a close code after it."""

from starlette import status
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocket, WebSocketClose, WebSocketState


def as_denial(scope: Scope, response: Response) -> ASGIApp:
    """Return the response, or for a WebSocket whose server can't send a response its closing with 1008."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        return WebSocketClose(status.WS_1008_POLICY_VIOLATION)
    return response


async def close_or_respond(connection: HTTPConnection, response: Response) -> ASGIApp | None:
    """Return the answer to a connection; an accepted WebSocket, which can have none, is closed."""
    if isinstance(connection, WebSocket) and connection.application_state is not WebSocketState.CONNECTING:
        if connection.application_state is WebSocketState.CONNECTED:
            is_internal = response.status_code >= 500
            await connection.close(status.WS_1011_INTERNAL_ERROR if is_internal else status.WS_1008_POLICY_VIOLATION)
        return None
    return as_denial(connection.scope, response)
