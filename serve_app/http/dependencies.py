"""FastAPI dependencies of routes."""

from typing import Annotated

from fastapi import Depends, Path, Request

from serve_app.services.transcription import Service


def service_of(request: Request) -> Service:
    """The service this app was made for."""
    service: Service = request.app.state.service
    return service


def owner_of(request: Request) -> str:
    """Return the owner of a request, derived from its API key; empty if the service needs no key."""
    owner: str = request.scope.get(OWNER, "")
    return owner


def base_url(service: Service, request: Request) -> str:
    """Return the base URL by which the client reaches the service, without a trailing slash."""
    return (service.settings.public_url or str(request.base_url)).rstrip("/")


OWNER = "whisper.owner"
"""The key of the owner in the ASGI scope."""

KnownId = Annotated[str, Path(description="The id that it was given, or gave itself.", examples=["call-17"])]
OwnerDep = Annotated[str, Depends(owner_of)]
ServiceDep = Annotated[Service, Depends(service_of)]
