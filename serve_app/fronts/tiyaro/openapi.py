"""OpenAPI entries of Tiyaro's API."""

from typing import Any

from serve_app.fronts.common.signed_uploads import UPLOAD_EXAMPLE
from serve_app.fronts.tiyaro.errors import ERROR_FORMAT
from serve_app.fronts.tiyaro.schemas import Inference, SubmitResponse
from serve_app.http.openapi.document import Responses, response
from serve_app.http.openapi.examples import FAILED, QUEUED, SUCCEEDED, TRANSCRIPT
from serve_app.schemas.job import Job
from serve_app.schemas.transcript import Transcript


def _inference(job: Job, transcript: Transcript | None = None) -> dict[str, Any]:
    return Inference.of(job, "openai/whisper-large-v3", transcript).model_dump(mode="json", by_alias=True)


_ACCEPTED = _inference(QUEUED) | {"status": "accepted"}
_SUCCEEDED = _inference(SUCCEEDED, TRANSCRIPT)
_URLS = {"urls": {"GET": "https://stt.example.com/v1/async/requests/call-17"}}
_HEADERS = ("Location", "Preference-Applied")

UPLOAD_URL: Responses = ERROR_FORMAT.responses() | {
    201: response("The upload URL.", {"uploadUrl": {"PUT": UPLOAD_EXAMPLE["url"]}})
}
SUBMIT: Responses = ERROR_FORMAT.responses(404, 429) | {
    200: response(
        "The inference, which ended within the time to wait.",
        {"response": _SUCCEEDED | _URLS},
        headers=_HEADERS,
        model=SubmitResponse,
    ),
    202: response("The accepted inference.", {"response": _ACCEPTED | _URLS}, headers=_HEADERS),
}
INFERENCE: Responses = ERROR_FORMAT.responses(404) | {
    200: response("The inference.", _SUCCEEDED, _ACCEPTED | {"status": "pending"}, _inference(FAILED))
}
