"""Errors in the shape of the front that was asked."""

import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from serve_app.errors import ServiceError
from serve_app.http.error_handlers import answer, invalid
from serve_app.http.openapi.document import EVERYWHERE, Entries, error_responses

Render = Callable[[ServiceError], Response]

ErrorRenderer = Callable[[Scope, ServiceError], Response]
"""Takes the scope too: an error that was found before any route was (a missing key, a body that is too large)."""


class Detail(BaseModel):
    """The body of an answer that is no success, as most fronts have it."""

    detail: str


@dataclass(frozen=True)
class ErrorFormat:
    """The error format of a front: `render` makes a `body`, for paths that match `paths` completely.

    `header`: only of requests that have it; of the others such a path is another front's.
    """

    paths: re.Pattern[str]
    render: Render
    body: type[BaseModel] = Detail
    header: str | None = None

    def matches(self, scope: Scope) -> bool:
        """Return whether a request belongs to this front."""
        given = self.header is None or self.header in Headers(scope=scope)
        return given and self.paths.fullmatch(scope["path"]) is not None

    def errors(self, *statuses: int) -> Entries:
        """The OpenAPI entries of the errors a path of this front may answer with, beside those that any may."""
        return error_responses(self.render, self.body, *EVERYWHERE, *statuses)

    @property
    def route(self) -> type[APIRoute]:
        """The class of the front's routes (`APIRouter(route_class=…)`)."""
        return self.route_with_header(self.header, given=True)

    def route_with_header(self, header: str | None, given: bool) -> type[APIRoute]:
        """The class of a route for requests that have a header, or have it not: else its path is another front's."""
        render = self.render

        class Route(APIRoute):
            def matches(self, scope: Scope) -> tuple[Match, Scope]:
                if header is not None and (header in Headers(scope=scope)) != given:
                    return Match.NONE, {}
                return super().matches(scope)

            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def handled(request: Request) -> Response:
                    try:
                        return await handle(request)
                    except RequestValidationError as error:
                        return render(invalid(error))
                    except ServiceError as error:
                        return render(error)

                return handled

        return Route


def error_renderer(formats: Sequence[ErrorFormat]) -> ErrorRenderer:
    """Errors in the shape of the front whose request it is, else in the common one."""
    headed_first = sorted(formats, key=lambda dialect: dialect.header is None)

    def refuse(scope: Scope, error: ServiceError) -> Response:
        render = next((dialect.render for dialect in headed_first if dialect.matches(scope)), answer)
        return render(error)

    return refuse
