"""The field of a request in which a client chooses its job's id."""

from typing import Annotated

from pydantic import Field

from serve_app.schemas.job import ID_CHARACTERS, ID_PATTERN

JobId = Annotated[
    str | None,
    Field(
        max_length=ID_CHARACTERS,
        pattern=ID_PATTERN,
        description="An id of your choice; null: the service generates one. The same id and request again return the "
        "same job.",
    ),
]
