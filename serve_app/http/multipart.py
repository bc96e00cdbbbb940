"""Multipart bodies: what can be wrong with them before anyone knows their fields."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.errors import InvalidRequest
from serve_app.http.dependencies import get_service
from serve_app.schemas.request import MAX_KNOWN_SPEAKERS

SHORT = 2**20
"""Bytes of a field without clips: what Starlette allows unless told."""


async def read_form(request: Request) -> None:
    """Read the request's form, whose fields may be as long as the clips of all known speakers.

    From then on `request.form()` is this form. Raises HTTPException for what can't be read.
    """
    clips = MAX_KNOWN_SPEAKERS * get_service(request).settings.limits.max_clip_bytes
    try:
        await request.form(max_part_size=SHORT + clips * 4 // 3)
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(400, "There was an error parsing the body") from error


class FormRoute(APIRoute):
    """A route that reads its form so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            await read_form(request)
            return await handle(request)

        return handled


async def reject_repeated_fields(request: Request) -> None:
    """Refuse a form that gives a field twice; lists are named `name[]`."""
    refuse_repeats(await request.form())


def refuse_repeats(form: FormData) -> None:
    """Raise InvalidRequest for a field that is there more than once and is no list."""
    for name in form:
        if not name.endswith("[]") and len(form.getlist(name)) > 1:
            raise InvalidRequest(f"{name} is given more than once", name, "repeated_field")
