"""The readiness of the service, under whichever path a front serves it."""

from typing import Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from serve_app.http.dependencies import ServiceDep
from serve_app.http.error_format import RETRY_AFTER_S
from serve_app.http.openapi.document import Responses, response


class Health(BaseModel):
    """The health of the service."""

    status: Literal["ok", "loading"]


READY: Responses = {
    200: response("Every deployment is healthy.", {"status": "ok"}),
    503: response(
        "A deployment is starting or unhealthy.", {"status": "loading"}, headers=("Retry-After",), model=Health
    ),
}
"""The OpenAPI entries of `ready`."""


async def ready(service: ServiceDep) -> JSONResponse:
    if await service.ready():
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading"}, 503, {"Retry-After": str(RETRY_AFTER_S)})
