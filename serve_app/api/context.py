"""How a route reaches the service behind it."""

from typing import Annotated

from fastapi import Depends, Request

from serve_app.service import Service


def service_of(request: Request) -> Service:
    """The service this app was made for."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]
