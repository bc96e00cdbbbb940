"""FastAPI dependencies of routes."""

from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.requests import HTTPConnection

from serve_app.services.jobs import JobService

OWNER = "whisper.owner"
"""The key of the owner in the ASGI scope: derived from the API key, absent if the service has no API keys."""


def get_service(connection: HTTPConnection) -> JobService:
    """Return the service for the caller of an HTTP or WebSocket request."""
    return JobService(connection.app.state.service, connection.scope.get(OWNER, ""))


def base_url(service: JobService, request: Request) -> str:
    """Return the base URL by which the client reaches the service, without a trailing slash."""
    return (service.settings.public_url or str(request.base_url)).rstrip("/")


KnownId = Annotated[str, Path(description="The id that it was given, or gave itself.", examples=["call-17"])]
ServiceDep = Annotated[JobService, Depends(get_service)]
