"""Errors of Verda's API: `{"detail": …}`."""

import re

from fastapi.responses import JSONResponse

from serve_app.errors import ServiceError
from serve_app.http.error_format import Detail, ErrorFormat, error_headers

INFERENCE_ID = "X-Inference-Id"


def render(error: ServiceError) -> JSONResponse:
    """Return an error as a response."""
    return JSONResponse(Detail(detail=error.message).model_dump(), error.status, error_headers(error))


# Any first folder is a deployment here, also one that is not a valid name: its 404 is in this format too.
_PATHS = r"/result/[^/]+|/(?!health$)(?:(?P<deployment>[^/]+)/)?(?:generate|generate_webhook|health)"

ERROR_FORMAT = ErrorFormat(re.compile(_PATHS), render, wildcard="deployment")
STATUS_ERROR_FORMAT = ErrorFormat(re.compile(r"/status/[^/]+"), render, header=INFERENCE_ID, wildcard="deployment")
"""For requests with the header; without it the path belongs to another front."""
