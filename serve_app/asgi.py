"""The FastAPI application: every front, one error shape, one body limit."""

from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline

from serve_app.fronts import health
from serve_app.fronts.insanely_fast import routes as insanely_fast
from serve_app.fronts.native import events as native_events
from serve_app.fronts.native import jobs as native_jobs
from serve_app.fronts.native import uploads as native_uploads
from serve_app.fronts.octoai import routes as octoai
from serve_app.fronts.openai import routes as openai
from serve_app.fronts.tiyaro import routes as tiyaro
from serve_app.fronts.verda import routes as verda
from serve_app.http import error_handlers
from serve_app.http.auth import SCHEMES, ApiKeyMiddleware
from serve_app.http.body_limits import BodyLimit, no_unknown_query
from serve_app.http.error_format import ErrorFormat, error_renderer
from serve_app.http.openapi.document import customized_openapi
from serve_app.services.transcription import Service
from serve_app.settings import Front

FRONTS: dict[Front, tuple[APIRouter, tuple[ErrorFormat, ...]]] = {
    "openai": (openai.router, ()),
    "insanely_fast": (insanely_fast.router, (insanely_fast.DIALECT,)),
    "octoai": (octoai.router, (octoai.DIALECT,)),
    "tiyaro": (tiyaro.router, (tiyaro.DIALECT,)),
    # The last: what any other front has under a first folder is not a deployment's.
    "verda": (verda.router, (verda.DIALECT, verda.STATUSES)),
}
"""The APIs of other services, and how those say what went wrong that have a shape of their own for it."""


def create_app(service: Service) -> FastAPI:
    """The HTTP application in front of `service`."""
    # Its /docs loads nothing from elsewhere: clusters are often cut off from the internet.
    app: FastAPI = FastAPIOffline(
        title="Whisper on Ray Serve",
        version=version("whisper-serve"),
        description="Speech to text: synchronous like OpenAI's audio API, or as jobs with webhooks.",
    )
    app.state.service = service
    chosen = [front for name, front in FRONTS.items() if name in service.settings.fronts]
    refuse = error_renderer([dialect for _, formats in chosen for dialect in formats])
    app.add_middleware(BodyLimit, max_bytes=service.settings.limits.max_upload_bytes, refuse=refuse)
    app.add_middleware(ApiKeyMiddleware, keys=service.settings.api_keys, refuse=refuse)
    error_handlers.install(app, refuse)
    app.include_router(health.router)
    for router in (native_jobs.router, native_events.router, native_uploads.router, *(router for router, _ in chosen)):
        app.include_router(router, dependencies=[*SCHEMES, Depends(no_unknown_query)])
    app.openapi = customized_openapi(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app
