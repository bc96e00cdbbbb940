"""API keys: `Authorization: Bearer …` or `x-admin-api-key: …`, when any are configured."""

import secrets
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from serve_app.api.context import service_of
from serve_app.errors import Unauthorized

_bearer = HTTPBearer(auto_error=False, description="A configured API key.")
_header = APIKeyHeader(name="x-admin-api-key", auto_error=False)


def require_key(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    header: Annotated[str | None, Depends(_header)],
) -> None:
    """Raise Unauthorized unless the request carries a configured key, or none is configured."""
    keys = service_of(request).settings.api_keys
    if not keys:
        return
    given = (bearer.credentials if bearer else header or "").encode()
    # Every key is compared, in constant time each, so that timing tells nothing about them.
    matches = [secrets.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    if not any(matches):
        raise Unauthorized(
            "a valid API key is required: send it as 'Authorization: Bearer KEY' or 'x-admin-api-key: KEY'",
            None,
            "invalid_api_key",
        )
