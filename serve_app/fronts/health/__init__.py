"""Liveness and readiness: `/healthz`, `/readyz`, and readiness under other services' names."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.health.routes import router

FRONT = Front(
    "health",
    (router,),
    public_paths=("/health", "/healthcheck", "/healthz", "/readyz"),
    is_optional=False,
)
