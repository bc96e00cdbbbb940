"""The FastAPI application: every front, one error shape, one body limit."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from serve_app.api import (
    errors,
    following,
    health,
    insanely_fast,
    native,
    octoai,
    openai,
    presigned,
    tiyaro,
    verda,
)
from serve_app.api.auth import SCHEMES, RequireKey
from serve_app.api.dialect import Dialect, refusing
from serve_app.api.limits import BodyLimit
from serve_app.service import Service

DIALECTS: tuple[Dialect, ...] = (insanely_fast.DIALECT, octoai.DIALECT, tiyaro.DIALECT, verda.DIALECT)
"""Of the fronts that have error bodies of their own."""


def create_app(service: Service) -> FastAPI:
    """The HTTP application in front of `service`."""
    # Its /docs loads nothing from elsewhere: clusters are often cut off from the internet.
    app: FastAPI = FastAPIOffline(
        title="Whisper on Ray Serve",
        version=version("whisper-serve"),
        description="Speech to text: synchronous like OpenAI's audio API, or as jobs with webhooks.",
    )
    app.state.service = service
    refuse = refusing(DIALECTS)
    app.add_middleware(BodyLimit, max_bytes=service.settings.limits.max_upload_bytes, refuse=refuse)
    app.add_middleware(RequireKey, keys=service.settings.api_keys, refuse=refuse)
    errors.install(app, refuse)
    app.include_router(health.router)
    # Verda's last: what any other front has under a first folder is not a deployment's.
    for front in (openai, native, following, presigned, insanely_fast, octoai, tiyaro, verda):
        app.include_router(front.router, dependencies=SCHEMES)
    return app
