"""The API of Verda's containers: `/generate` and `/generate_webhook`, and their asynchronous layer."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.verda.errors import ERROR_FORMAT, STATUS_ERROR_FORMAT
from serve_app.fronts.verda.routes import router
from serve_app.fronts.verda.webhook import webhook_payload

FRONT = Front(
    "verda",
    (router,),
    error_formats=(ERROR_FORMAT, STATUS_ERROR_FORMAT),
    webhook_payload=webhook_payload,
    path_prefixes=("status", "result"),
)
