"""OpenAPI entries of OctoAI's endpoints."""

from serve_app.fronts.octoai.errors import ERROR_FORMAT, REQUEST_ID
from serve_app.fronts.octoai.schemas import Future, Prediction, Progress
from serve_app.http.openapi.document import Responses, response
from serve_app.http.openapi.examples import TRANSCRIPT

_BASE_URL = "https://stt.example.com"
_PREDICTION = Prediction.of(TRANSCRIPT).model_dump()
_PROGRESS = {"response_id": "call-17", "status": "running", "response_url": f"{_BASE_URL}/v1/responses/call-17"}

INFER: Responses = ERROR_FORMAT.responses(404, 408, 409, 429) | {
    200: response("The transcript.", _PREDICTION, headers=(REQUEST_ID, "Preference-Applied")),
    201: response(
        "The URL to poll, with `X-OctoAI-Async: 1` or as preferred.",
        {"response_id": "call-17", "poll_url": f"{_BASE_URL}/v1/requests/call-17"},
        headers=(REQUEST_ID, "Location", "Preference-Applied"),
        model=Future,
    ),
}
POLL: Responses = ERROR_FORMAT.responses(404) | {
    200: response(
        "The request has ended.",
        _PROGRESS | {"status": "completed"},
        _PROGRESS | {"status": "failed", "detail": "the URL answered 404 Not Found"},
        headers=(REQUEST_ID,),
    ),
    202: response("The request has not ended.", _PROGRESS, headers=(REQUEST_ID,), model=Progress),
}
RESULT: Responses = ERROR_FORMAT.responses(404, 409) | {
    200: response("The transcript.", _PREDICTION, headers=(REQUEST_ID,))
}
