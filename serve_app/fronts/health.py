"""Is it alive, is it ready?"""

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from serve_app.http.dependencies import ServiceDep
from serve_app.http.error_handlers import RETRY_AFTER_S, ErrorBody, answer
from serve_app.http.openapi.document import Entries, error_responses, response

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The health of the service."""

    status: Literal["ok", "loading"]


_ERRORS = error_responses(answer, ErrorBody, 413, 415, 431)
_LIVE = response("It is.", {"status": "ok"})
READY: Entries = {
    200: _LIVE,
    503: response("Not yet, or no longer.", {"status": "loading"}, headers=("Retry-After",), model=Health),
}
"""The OpenAPI entries of `ready`."""


@router.get("/healthz", summary="Live: the process answers", responses=_ERRORS | {200: _LIVE})
async def live() -> Health:
    return Health(status="ok")


@router.get("/readyz", summary="Ready: every deployment is healthy", response_model=Health, responses=_ERRORS | READY)
@router.get(
    "/health", summary="Ready, under the name Verda's containers use", response_model=Health, responses=_ERRORS | READY
)
@router.get(
    "/healthcheck",
    summary="Ready, under the name OctoAI's endpoints use",
    response_model=Health,
    responses=_ERRORS | READY,
)
async def ready(service: ServiceDep) -> JSONResponse:
    if await service.ready():
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading"}, 503, {"Retry-After": str(RETRY_AFTER_S)})
