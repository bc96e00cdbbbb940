"""Multipart forms: checks that do not depend on the form's fields."""

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

MAX_FIELD_BYTES = 2**20
"""Limit of a field without clips, Starlette's default."""


async def read_form(request: Request) -> None:
    """Read the request's form, whose fields may be as long as the clips of all known speakers.

    Later calls of `request.form()` return this form. Raises HTTPException for a form that can't be parsed.
    """
    clips = MAX_KNOWN_SPEAKERS * get_service(request).settings.limits.max_clip_bytes
    try:
        await request.form(max_part_size=MAX_FIELD_BYTES + clips * 4 // 3)
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(400, "There was an error parsing the body") from error


class FormRoute(APIRoute):
    """A route whose form is read by `read_form`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            await read_form(request)
            return await handle(request)

        return handle_form


async def reject_repeated_fields(request: Request) -> None:
    """Dependency of routes that read a form: 400 for a repeated field."""
    check_repeated_fields(await request.form())


def check_repeated_fields(form: FormData) -> None:
    """Raise InvalidRequest for a field that is given more than once and is not a list (`name[]`)."""
    for name in form:
        if not name.endswith("[]") and len(form.getlist(name)) > 1:
            raise InvalidRequest(f"{name} is given more than once", name, "repeated_field")
