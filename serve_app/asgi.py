"""The FastAPI application, assembled from the registered fronts."""

from collections.abc import Sequence
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from serve_app.fronts.common.front import Front
from serve_app.fronts.registry import FRONTS, select_fronts
from serve_app.http.auth import SECURITY_SCHEMES, ApiKeyMiddleware
from serve_app.http.body_limits import RequestLimitMiddleware, reject_unknown_query
from serve_app.http.error_format import error_renderer
from serve_app.http.error_handlers import install_error_handlers
from serve_app.http.openapi.document import customized_openapi
from serve_app.http.request_context import RequestContextMiddleware
from serve_app.observability.metrics import Metrics, NoMetrics
from serve_app.services.transcription import Service

_DOCS_PATHS = ("/docs", "/redoc", "/openapi.json", "/static-offline-docs/")
_DOCS_PREFIXES = ("docs", "static-offline-docs")


def create_app(service: Service, fronts: Sequence[Front] = FRONTS, metrics: Metrics | None = None) -> FastAPI:
    """Return the HTTP application of `service` with those `fronts` that its settings select."""
    # Its /docs loads nothing from other hosts: clusters are often cut off from the internet.
    app: FastAPI = FastAPIOffline(
        title="Whisper on Ray Serve",
        version=version("whisper-serve"),
        description="Speech to text: synchronous like OpenAI's audio API, or as jobs with webhooks.",
    )
    selected = select_fronts(fronts, service.settings.fronts)
    app.state.service = service
    # Also of fronts that are not selected, so that the setting does not change the meaning of a path.
    app.state.path_prefixes = {*_DOCS_PREFIXES, *(prefix for front in fronts for prefix in front.path_prefixes)}
    render = error_renderer(error_format for front in selected for error_format in front.error_formats)
    public_paths = (*_DOCS_PATHS, *(path for front in selected for path in front.public_paths))
    app.add_middleware(RequestLimitMiddleware, max_bytes=service.settings.limits.max_upload_bytes, render=render)
    app.add_middleware(ApiKeyMiddleware, keys=service.settings.api_keys, public_paths=public_paths, render=render)
    front_by_route = {route: front.name for front in selected for route in front.routes}
    app.add_middleware(RequestContextMiddleware, metrics=metrics or NoMetrics(), front_by_route=front_by_route)
    install_error_handlers(app, render)
    for front in selected:
        schemes = () if front.is_public else SECURITY_SCHEMES
        for router in front.routers:
            app.include_router(router, dependencies=[*schemes, Depends(reject_unknown_query)])
    app.openapi = customized_openapi(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app
