"""Authentication by API keys: `Authorization: Bearer …` or `x-admin-api-key: …`, if any keys are configured."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence

from fastapi import Depends
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.openapi.models import SecurityBase as SecurityModel
from fastapi.security.base import SecurityBase
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import Unauthorized
from serve_app.http.dependencies import OWNER
from serve_app.http.error_format import ErrorRenderer
from serve_app.http.websockets import as_denial


class _DocumentedScheme(SecurityBase):
    """A security scheme in the OpenAPI document; `ApiKeyMiddleware` checks the keys."""

    def __init__(self, name: str, model: SecurityModel) -> None:
        self.scheme_name = name
        self.model = model

    def __call__(self) -> None:
        """Accept every request: FastAPI's own schemes would fail for WebSocket routes."""


_BEARER = HTTPBearer(description="A configured API key.")
_HEADER = APIKey.model_validate({"in": APIKeyIn.header, "name": "x-admin-api-key"})
SECURITY_SCHEMES = [
    Depends(_DocumentedScheme("HTTPBearer", _BEARER)),
    Depends(_DocumentedScheme("APIKeyHeader", _HEADER)),
]
"""Dependencies of routes that need an API key."""


class ApiKeyMiddleware:
    """ASGI middleware: answers 401 to requests and WebSockets without a configured key, before a body is read.

    `public_paths` need no key; a path with a trailing slash stands for every path below it.
    """

    def __init__(
        self, app: ASGIApp, keys: Sequence[SecretStr], public_paths: Iterable[str], render: ErrorRenderer
    ) -> None:
        self.app = app
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._public_paths = frozenset(public_paths)
        self._public_folders = tuple(path for path in self._public_paths if path.endswith("/"))
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._keys or self._is_public(scope["path"]):
            return await self.app(scope, receive, send)
        key = self._find_key(Headers(scope=scope))
        if key is not None:
            scope[OWNER] = hashlib.sha256(key).hexdigest()[:32]  # stored with the jobs, instead of the key
            return await self.app(scope, receive, send)
        error = Unauthorized(
            "a valid API key is required: send it as 'Authorization: Bearer KEY' or 'x-admin-api-key: KEY'",
            None,
            "invalid_api_key",
        )
        return await as_denial(scope, self._render(scope, error))(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public_paths or path.startswith(self._public_folders)

    def _find_key(self, headers: Headers) -> bytes | None:
        """Return the configured key that a request was sent with."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-admin-api-key", "")
        # Every key is compared, each in constant time, so that timing reveals nothing about the keys.
        matches = [key for key in self._keys if secrets.compare_digest(given.encode("latin-1"), key)]
        return matches[0] if matches else None
