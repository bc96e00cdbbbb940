"""API keys: `Authorization: Bearer …` or `x-admin-api-key: …`, when any are configured."""

import hashlib
import secrets
from collections.abc import Sequence

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import Unauthorized
from serve_app.http.dependencies import OWNER
from serve_app.http.error_format import ErrorRenderer

OPEN = (
    *("/health", "/healthcheck", "/healthz", "/readyz"),
    *("/docs", "/redoc", "/openapi.json", "/static-offline-docs/"),
    "/v1/uploads/",
)
"""Paths, and folders of paths, that need no key: probes, the page that says how to use one, signed URLs."""

SCHEMES = [
    Depends(HTTPBearer(auto_error=False, description="A configured API key.")),
    Depends(APIKeyHeader(name="x-admin-api-key", auto_error=False)),
]
"""The security schemes of the OpenAPI document; `RequireKey` checks the keys."""


class ApiKeyMiddleware:
    """ASGI middleware: 401 without a configured key, before anything of the body is read."""

    def __init__(self, app: ASGIApp, keys: Sequence[SecretStr], refuse: ErrorRenderer) -> None:
        self.app = app
        self._refuse = refuse
        self._keys = [key.get_secret_value().encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or _is_open(scope["path"]):
            return await self.app(scope, receive, send)
        key = self._admitted(Headers(scope=scope))
        if key is not None:
            scope[OWNER] = hashlib.sha256(key).hexdigest()[:32]  # kept with the jobs: not the key itself
            return await self.app(scope, receive, send)
        error = Unauthorized(
            "a valid API key is required: send it as 'Authorization: Bearer KEY' or 'x-admin-api-key: KEY'",
            None,
            "invalid_api_key",
        )
        return await self._refuse(scope, error)(scope, receive, send)

    def _admitted(self, headers: Headers) -> bytes | None:
        """The configured key that a request has."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-admin-api-key", "")
        # Every key is compared, in constant time each, so that timing tells nothing about them.
        matches = [key for key in self._keys if secrets.compare_digest(given.encode("latin-1"), key)]
        return matches[0] if matches else None


def _is_open(path: str) -> bool:
    return path in OPEN or any(path.startswith(folder) for folder in OPEN if folder.endswith("/"))
