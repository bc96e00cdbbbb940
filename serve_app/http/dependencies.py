"""FastAPI dependencies of HTTP and WebSocket routes."""

from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.requests import HTTPConnection

from serve_app.services.jobs import JobService

OWNER = "whisper.owner"
"""The key of the owner in the ASGI scope: derived from the API key, absent if the service has no API keys."""

OWNER = "whisper.owner"
"""The key of the owner in the ASGI scope."""


def get_service(connection: HTTPConnection) -> Service:
    """Return the service of the application."""
    service: Service = connection.app.state.service
    return service


def get_owner(connection: HTTPConnection) -> str:
    """Return the owner of a request, derived from its API key; empty if the service needs no key."""
    owner: str = connection.scope.get(OWNER, "")
    return owner


def base_url(service: Service, request: Request) -> str:
    """Return the base URL by which the client reaches the service, without a trailing slash."""
    return (service.settings.public_url or str(request.base_url)).rstrip("/")


JobIdPath = Annotated[str, Path(description="The job's id, made by the service or the client.", examples=["call-17"])]
OwnerDep = Annotated[str, Depends(get_owner)]
ServiceDep = Annotated[Service, Depends(get_service)]
