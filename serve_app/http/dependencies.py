"""How a route reaches the service behind it."""

from typing import Annotated

from fastapi import Depends, Path, Request

from serve_app.services.transcription import Service


def service_of(request: Request) -> Service:
    """The service this app was made for."""
    service: Service = request.app.state.service
    return service


def owner_of(request: Request) -> str:
    """Whose request it is: a word for its API key; empty when the service is open."""
    owner: str = request.scope.get(OWNER, "")
    return owner


def base_url(service: Service, request: Request) -> str:
    """Where this client reaches the service, for URLs in answers; without a slash at its end."""
    return (service.settings.public_url or str(request.base_url)).rstrip("/")


OWNER = "whisper.owner"
"""Where the check of the keys leaves it, in the ASGI scope."""

KnownId = Annotated[str, Path(description="The id that it was given, or gave itself.", examples=["call-17"])]
OwnerDep = Annotated[str, Depends(owner_of)]
ServiceDep = Annotated[Service, Depends(service_of)]
