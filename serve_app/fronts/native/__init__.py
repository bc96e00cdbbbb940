"""The service's own API: jobs, their events and webhook deliveries, and uploads by signed URLs."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.common.signed_uploads import UPLOADS_PATH
from serve_app.fronts.native import events, jobs, uploads
from serve_app.fronts.native.webhook import webhook_payload

FRONT = Front(
    "native",
    (jobs.router, events.router, uploads.router),
    webhook_payload=webhook_payload,
    public_paths=(f"{UPLOADS_PATH}/",),  # their signature is the authorization
    path_prefixes=("v1",),
    is_optional=False,
)
