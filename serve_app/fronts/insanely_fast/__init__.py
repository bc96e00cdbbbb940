"""The Insanely-Fast-Whisper API (https://github.com/JigsawStack/insanely-fast-whisper-api). A task is a job."""

from serve_app.fronts.common.front import Front
from serve_app.fronts.insanely_fast.errors import ERROR_FORMAT
from serve_app.fronts.insanely_fast.routes import router
from serve_app.fronts.insanely_fast.webhook import webhook_payload

FRONT = Front(
    "insanely_fast",
    (router,),
    error_formats=(ERROR_FORMAT,),
    webhook_payload=webhook_payload,
    path_prefixes=("status", "cancel"),
)
