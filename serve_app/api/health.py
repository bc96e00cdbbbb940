"""Is it alive, is it ready?"""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from serve_app.api.context import ServiceDep

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Live: the process answers")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Ready: every deployment is healthy", responses={503: {}})
@router.get("/health", summary="Ready, under the name Verda's containers use", responses={503: {}})
@router.get("/healthcheck", summary="Ready, under the name OctoAI's endpoints use", responses={503: {}})
async def ready(service: ServiceDep) -> JSONResponse:
    if await service.ready():
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading"}, 503)
