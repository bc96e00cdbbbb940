"""Multipart bodies: what can be wrong with them before anyone knows their fields."""

from starlette.datastructures import FormData
from starlette.requests import Request

from serve_app.errors import InvalidRequest


async def unrepeated(request: Request) -> None:
    """Refuse a form that gives a field twice; lists are named `name[]`."""
    refuse_repeats(await request.form())


def refuse_repeats(form: FormData) -> None:
    """Raise InvalidRequest for a field that is there more than once and is no list."""
    for name in form:
        if not name.endswith("[]") and len(form.getlist(name)) > 1:
            raise InvalidRequest(f"{name} is given more than once", name, "repeated_field")
