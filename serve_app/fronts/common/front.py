"""The type of a front."""

from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from serve_app.http.error_format import ErrorFormat
from serve_app.jobs.webhooks.payload import WebhookPayload


@dataclass(frozen=True)
class Front:
    """An HTTP API of the service: everything that the application, authentication, webhooks and OpenAPI need of it.

    Paths without an error format of the front have the common one. `webhook_payload` renders the webhooks of jobs whose
    `webhook_format` is the front's name. `public_paths` need no API key; a path with a trailing slash stands for every
    path below it. `path_prefixes` are first folders of its paths, which other fronts' wildcards do not match.
    `is_optional`: served only if the setting `fronts` selects it.
    """

    name: str
    routers: tuple[APIRouter, ...]
    error_formats: tuple[ErrorFormat, ...] = ()
    webhook_payload: WebhookPayload | None = None
    public_paths: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    is_optional: bool = True

    @property
    def routes(self) -> list[str]:
        """The templates of its paths."""
        return [route.path or "" for router in self.routers for route in iter_route_contexts(router.routes)]

    @property
    def is_public(self) -> bool:
        """Return whether no path needs an API key."""
        return all(route in self.public_paths for route in self.routes)
