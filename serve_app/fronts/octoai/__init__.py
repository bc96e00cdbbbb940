"""OctoAI's endpoints, as its SDK's `infer` and `infer_async` call them."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.octoai.errors import ERROR_FORMAT
from serve_app.fronts.octoai.routes import router

FRONT = Front("octoai", (router,), error_formats=(ERROR_FORMAT,), path_prefixes=("v1",))
