"""OpenAPI entries of Verda's API."""

from serve_app.fronts.common.readiness import READY
from serve_app.fronts.verda.errors import ERROR_FORMAT, INFERENCE_ID
from serve_app.fronts.verda.schemas import AcceptedInference, Result, WebhookAccepted, WebhookMissing
from serve_app.http.openapi.document import Responses, response
from serve_app.http.openapi.examples import TRANSCRIPT

_ACCEPTED_HEADERS = (INFERENCE_ID, "Location", "Preference-Applied")
_TEXT = {"result": TRANSCRIPT.text}
_ACCEPTED = {"Id": "call-17", "StatusPath": "/status/whisper", "ResultPath": "/result/whisper"}
_ERRORS = ERROR_FORMAT.responses(404, 408, 409, 422, 429)
_WAITED = response("The text.", _TEXT, headers=(INFERENCE_ID, "Preference-Applied"), model=Result)

GENERATE: Responses = _ERRORS | {
    200: _WAITED,
    202: response(
        "The inference runs in the background, as preferred; the body is empty with `respond-async-proxy`.",
        _ACCEPTED,
        headers=_ACCEPTED_HEADERS,
        model=AcceptedInference,
    ),
}
GENERATE_WEBHOOK: Responses = _ERRORS | {
    200: _WAITED,
    202: response(
        "The text will be sent to the webhook.",
        {"status": "accepted"},
        _ACCEPTED,
        headers=_ACCEPTED_HEADERS,
        model=WebhookAccepted | AcceptedInference,
    ),
    500: response(
        "`verda.webhook` is not set.", {"status": "error", "details": "webhook not defined"}, model=WebhookMissing
    ),
}
HEALTH: Responses = ERROR_FORMAT.responses(404) | READY
RESULT: Responses = _ERRORS | {202: response("The text; if the inference failed, its error.", _TEXT)}
STATUS: Responses = ERROR_FORMAT.responses(404) | {
    200: response(
        "The status; `Error` is null unless the inference failed.",
        {"Id": "call-17", "Error": None, "Status": 2},
        {"Id": "call-17", "Error": "the URL answered 404 Not Found", "Status": 3},
    )
}
