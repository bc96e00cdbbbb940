"""The routes of liveness and readiness."""

from fastapi import APIRouter

from serve_app.fronts.common.readiness import Health, ready
from serve_app.fronts.health.openapi import LIVE_RESPONSES, READY_RESPONSES

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Liveness: the process answers", responses=LIVE_RESPONSES)
async def live() -> Health:
    return Health(status="ok")


for path, summary in {
    "/readyz": "Readiness: every deployment is healthy",
    "/health": "Readiness, under the name that Verda's containers use",
    "/healthcheck": "Readiness, under the name that OctoAI's endpoints use",
}.items():
    router.add_api_route(path, ready, summary=summary, response_model=Health, responses=READY_RESPONSES)
