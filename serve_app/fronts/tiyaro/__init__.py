"""Tiyaro's asynchronous API: a recording is put to an upload URL, then submitted, and its result polled for."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.tiyaro.errors import ERROR_FORMAT
from serve_app.fronts.tiyaro.routes import router

FRONT = Front("tiyaro", (router,), error_formats=(ERROR_FORMAT,), path_prefixes=("v1",))
