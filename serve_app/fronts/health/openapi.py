"""OpenAPI entries of the health front."""

from serve_app.fronts.common.readiness import READY
from serve_app.http.error_format import ErrorBody, error_response
from serve_app.http.openapi.document import Responses, error_responses, response

_ERRORS = error_responses(error_response, ErrorBody, 413, 415, 431)

LIVE_RESPONSES: Responses = _ERRORS | {200: response("The process answers.", {"status": "ok"})}
READY_RESPONSES: Responses = _ERRORS | READY
