"""OpenAPI entries of the native API: request bodies, responses, examples."""

from hashlib import sha256

from fastapi.sse import format_sse_event

from serve_app.fronts.common.signed_uploads import UPLOAD_EXAMPLE
from serve_app.fronts.common.transcripts import TRANSCRIPT_ENTRY
from serve_app.fronts.native.schemas import Deleted, DeliveryList, JobBody, JobForm
from serve_app.http.error_format import COMMON
from serve_app.http.openapi.document import OpenApiEntry, Responses, response
from serve_app.http.openapi.examples import NOW, QUEUED, SUCCEEDED, URL
from serve_app.http.openapi.schema import schema_of
from serve_app.jobs.view import JobView, to_view
from serve_app.schemas.job import DeliveryAttempt, DeliveryView, JobEvent, JobState

_JOB = to_view(QUEUED).model_dump(mode="json")
_ENDED = to_view(SUCCEEDED).model_dump(mode="json")
_HEADERS = ("Location", "Preference-Applied")
_DELIVERIES = DeliveryList(
    data=(
        DeliveryView(
            id="msg_2mXZ",
            event="completed",
            state="delivered",
            created_at=NOW,
            due_at=None,
            tries=(DeliveryAttempt(at=NOW, seconds=0.12, status=200),),
        ),
    )
).model_dump(mode="json")
_EVENT = JobEvent(number=3, type="completed", at=NOW, status=JobState.SUCCEEDED, progress=1.0, attempts=1)
_EVENT_STREAM: OpenApiEntry = {
    "description": "The events; a comment every now and then while nothing happens.",
    "content": {
        "text/event-stream": {
            "example": format_sse_event(data_str=_EVENT.model_dump_json(), event="completed", id="3").decode()
        }
    },
}

JOB_BODY: OpenApiEntry = {
    "required": True,
    "content": {
        "application/json": {
            "schema": schema_of(JobBody),
            "example": {"url": URL, "webhook": {"url": "https://example.com/done"}},
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    **schema_of(JobForm)["properties"],
                },
                "additionalProperties": False,
            },
            "example": {"file": "(a recording)", "language": "en", "timestamps": "word"},
        },
    },
}
FILE_BODY: OpenApiEntry = {
    "required": True,
    "content": {
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary"},
            "example": "(a recording)",
        }
    },
}

SUBMIT: Responses = COMMON.responses(404, 422, 429) | {
    200: response("The job, which ended within the time to wait.", _ENDED, headers=_HEADERS, model=JobView),
    202: response("The accepted job.", _JOB, headers=_HEADERS),
}
LIST: Responses = COMMON.responses() | {
    200: response("A page of jobs.", {"object": "list", "data": [_ENDED], "next_cursor": None})
}
GET: Responses = COMMON.responses(404) | {200: response("The job.", _ENDED)}
TRANSCRIPT: Responses = COMMON.responses(404, 409) | {200: TRANSCRIPT_ENTRY}
DELETE: Responses = COMMON.responses(404, 409) | {
    200: response(
        "The cancelled job, or the confirmation that an ended job is deleted.",
        _JOB | {"status": "cancelled"},
        Deleted(id="call-17").model_dump(),
    )
}
EVENTS: Responses = COMMON.responses(404) | {200: _EVENT_STREAM}
DELIVERIES: Responses = COMMON.responses(404) | {200: response("All deliveries of the job.", _DELIVERIES)}
REDELIVER: Responses = COMMON.responses(404, 409) | {
    202: response("All deliveries of the job; the selected ones will be sent again.", _DELIVERIES)
}
CREATE_UPLOAD: Responses = COMMON.responses() | {201: response("The upload.", UPLOAD_EXAMPLE)}
PUT_UPLOAD: Responses = COMMON.responses(403) | {
    200: response(
        "The stored file.",
        {"id": UPLOAD_EXAMPLE["id"], "object": "upload", "sha256": sha256(b"(a recording)").hexdigest()},
    )
}
