"""OctoAI's endpoints, as its SDK's `infer` and `infer_async` call them: `/infer`, at once or in the background."""

import re
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.errors import ServiceError
from serve_app.fronts.uploads import base64_chunks
from serve_app.http.body_limits import require_json
from serve_app.http.dependencies import KnownId, ServiceDep, base_url
from serve_app.http.error_format import Detail, ErrorFormat
from serve_app.http.error_handlers import headers_of, with_field
from serve_app.http.openapi.document import response
from serve_app.http.openapi.examples import TRANSCRIPT, URL
from serve_app.http.prefer import PreferredDep
from serve_app.rendering.formats import as_whisper
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import BodySource, JobRequest, Source, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import Transcript

REQUEST_ID = "X-User-Request-ID"
"""The header that names a request, and its job, in every answer: what the SDK's errors tell the user."""


def refused(error: ServiceError, request_id: str | None = None) -> JSONResponse:
    """The HTTP answer for an error. `request_id`: null where no job was made yet."""
    headers = headers_of(error) | {REQUEST_ID: request_id or uuid4().hex}
    return JSONResponse(Detail(detail=with_field(error)).model_dump(), error.status, headers)


# The paths of the poll and response URLs are OctoAI's own: clients without the SDK put them together themselves.
DIALECT = ErrorFormat(re.compile(r"/infer|/v1/(requests|responses)/[^/]+"), refused)
router = APIRouter(tags=["octoai"], route_class=DIALECT.route)


class InferBody(TranscriptionOptions):
    """A recording, and the options."""

    model_config = ConfigDict(json_schema_extra={"example": {"url": URL, "language": "en", "task": "transcribe"}})

    audio: str | None = Field(
        None,
        description="Base64 of the audio, or a data URL; or the SDK's `Audio` as its `model_dump()` writes it, an "
        "object whose `data` is base64 or an object with a `url`.",
    )
    url: str | None = Field(None, description="http(s) URL of the audio.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, body: Any) -> Any:
        match body:
            case {"audio": {"data": {"url": url, **none}, **more}, **others} if not (none or more or "url" in others):
                return others | {"url": url}
            case {"audio": {"data": data, **more}, **others} if not more:
                return others | {"audio": data}
        return body

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.audio is None) is (self.url is None):
            raise ValueError("exactly one of audio and url is required")
        return self


class Inference(BaseModel):
    """A transcript, and how long it took."""

    prediction_time_ms: float
    response: dict[str, Any] = Field(description="`text`, `segments` and `language`, as Whisper's `transcribe` has it.")
    transcription: str = Field(description="The text alone.")


class Future(BaseModel):
    """The URLs to poll for the answer."""

    response_id: str = Field(description="The job's id too.")
    poll_url: str


class Progress(BaseModel):
    """The status of a request; `response_url` returns the answer when it is `completed`, the error if it `failed`."""

    response_id: str
    status: Literal["pending", "running", "completed", "failed"]
    response_url: str
    detail: str | None = Field(None, description="Why it failed.")


def _inference(transcript: Transcript) -> Inference:
    return Inference(
        prediction_time_ms=round(1000 * sum(transcript.timings.values()), 3),
        response=as_whisper(transcript),
        transcription=transcript.text,
    )


_HERE = "https://stt.example.com"
_TEXT = _inference(TRANSCRIPT).model_dump()
_PROGRESS = {"response_id": "call-17", "status": "running", "response_url": f"{_HERE}/v1/responses/call-17"}


@router.post(
    "/infer",
    summary="Transcribe a recording, as OctoAI's client asks for it",
    response_model=Inference,
    dependencies=[Depends(require_json)],
    responses=DIALECT.errors(404, 408, 409, 429)
    | {
        200: response("The text.", _TEXT, headers=(REQUEST_ID, "Preference-Applied")),
        201: response(
            "Accepted: with `X-OctoAI-Async: 1`, or as preferred.",
            {"response_id": "call-17", "poll_url": f"{_HERE}/v1/requests/call-17"},
            headers=(REQUEST_ID, "Location", "Preference-Applied"),
            model=Future,
        ),
    },
)
async def infer(
    service: ServiceDep,
    request: Request,
    body: InferBody,
    preferred: PreferredDep,
    in_background: Annotated[
        bool, Header(alias="X-OctoAI-Async", description="1: answer at once, with a URL to poll.")
    ] = False,
) -> JSONResponse:
    options = TranscriptionOptions.of(body)
    source: Source = BodySource() if body.url is None else UrlSource(url=body.url)
    audio = base64_chunks(body.audio or "", "audio") if body.url is None else None
    job_request = JobRequest(source=source, options=options)
    request_id = uuid4().hex
    headers = {REQUEST_ID: request_id}
    try:
        if in_background or preferred.in_background:
            waited = await preferred.waited(service, await service.submit(job_request, request_id, body=audio))
            headers |= waited.headers
            if not waited.ended:
                poll_url = f"{base_url(service, request)}/v1/requests/{request_id}"
                future = Future(response_id=request_id, poll_url=poll_url)
                return JSONResponse(future.model_dump(), 201, headers | {"Location": poll_url})
            transcript = await service.outcome(waited.job)
        else:
            transcript = await service.transcribe(job_request, request_id, body=audio)
    except ServiceError as error:
        return refused(error, request_id)
    return JSONResponse(_inference(transcript).model_dump(), headers=headers)


@router.get(
    "/v1/requests/{response_id}",
    summary="How far a request in the background is",
    response_model=Progress,
    responses=DIALECT.errors(404)
    | {
        200: response(
            "It has ended.",
            _PROGRESS | {"status": "completed"},
            _PROGRESS | {"status": "failed", "detail": "the URL answered 404 Not Found"},
            headers=(REQUEST_ID,),
        ),
        202: response("It has not.", _PROGRESS, headers=(REQUEST_ID,), model=Progress),
    },
)
async def poll(service: ServiceDep, request: Request, response_id: KnownId) -> JSONResponse:
    job = await service.get(response_id)
    progress = Progress(
        response_id=response_id,
        status=_status(job),
        response_url=f"{base_url(service, request)}/v1/responses/{response_id}",
        detail=with_field(job.error) if job.error else None,
    )
    code = 200 if job.state.terminal else 202
    return JSONResponse(progress.model_dump(exclude_none=True), code, {REQUEST_ID: response_id})


def _status(job: Job) -> Literal["pending", "running", "completed", "failed"]:
    match job.state:
        case JobState.QUEUED:
            return "pending"
        case JobState.RUNNING:
            return "running"
        case JobState.SUCCEEDED:
            return "completed"
        case JobState.FAILED | JobState.CANCELLED:
            return "failed"


@router.get(
    "/v1/responses/{response_id}",
    summary="The answer to a request in the background, or the error it failed with",
    response_model=Inference,
    responses=DIALECT.errors(404, 409) | {200: response("The text.", _TEXT, headers=(REQUEST_ID,))},
)
async def result(service: ServiceDep, response_id: KnownId) -> JSONResponse:
    job = await service.get(response_id)
    try:
        transcript = await service.outcome(job)
    except ServiceError as error:
        return refused(error, response_id)
    return JSONResponse(_inference(transcript).model_dump(), headers={REQUEST_ID: response_id})
