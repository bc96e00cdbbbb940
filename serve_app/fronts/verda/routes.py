"""Verda's containers: `/generate` and `/generate_webhook`, also under `/{deployment}`, and their asynchronous layer."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.convertors import StringConvertor, register_url_convertor

from serve_app.errors import Conflict, NotFound, Reused, ServiceError
from serve_app.fronts import health
from serve_app.http.dependencies import ServiceDep
from serve_app.http.error_format import Detail, ErrorFormat
from serve_app.http.error_handlers import headers_of
from serve_app.http.openapi.document import response
from serve_app.http.openapi.examples import TRANSCRIPT
from serve_app.http.prefer import Preferences, preference_applied_header, preferences
from serve_app.rendering.speaker_labels import speaker_text
from serve_app.schemas.job import ID_CHARACTERS, ID_PATTERN, Job, JobState
from serve_app.schemas.request import JobRequest, TranscriptionOptions, UrlSource, Webhook
from serve_app.services.jobs import JobService

ID = "X-Inference-Id"

DEPLOYMENT = "whisper"
"""The deployment in the paths of an answer to a request that named none."""

RESERVED = ("v1", "status", "result", "cancel", "docs", "static-offline-docs")
"""First folders of the service's other paths: no deployments."""

_CHARACTERS = "[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = rf"(?!(?:{'|'.join(map(re.escape, RESERVED))})(?:/|$)){_CHARACTERS}"


class _Name(StringConvertor):
    """A deployment's name in a path. There is one service: any name is its own."""

    regex = _NAME


register_url_convertor("deployment", _Name())

WAYS = ("respond-async", "respond-async-proxy", "respond-async-container")
"""The preferences of the asynchronous layer; of several the first counts."""


class State(BaseModel):
    """The status of an inference."""

    Id: str
    Error: str | None = Field(description="Why it failed; null: it has not.")
    Status: int | str = Field(
        description="0 `Initialized`, 1 `Queue`, 2 `Inference`, 3 `Completed`; a name with `verda.status_names`."
    )


class Accepted(BaseModel):
    """The URLs of an inference; both need the header `X-Inference-Id: Id`."""

    Id: str
    StatusPath: str
    ResultPath: str


class Result(BaseModel):
    """The text."""

    result: str


class Sent(BaseModel):
    """The text will come to the webhook."""

    status: Literal["accepted"]


class Unset(BaseModel):
    """There is no webhook."""

    status: Literal["error"]
    details: str


_STATES = {
    JobState.QUEUED: (1, "Queue"),
    JobState.RUNNING: (2, "Inference"),
    JobState.SUCCEEDED: (3, "Completed"),
    JobState.FAILED: (3, "Completed"),
    JobState.CANCELLED: (3, "Completed"),
}
"""A job that is listed is queued: 0, `Initialized`, is never seen."""


class GenerateBody(TranscriptionOptions):
    """A transcription request."""

    model_config = ConfigDict(json_schema_extra={"example": {"url": "https://example.com/talk.mp3"}})

    url: str = Field(min_length=1, description="http(s) URL of the audio.")

    @field_validator("timestamps", "logprobs")
    @classmethod
    def _only_text(cls, value: object) -> object:
        if value in ("word", True):
            raise ValueError("this API returns plain text: request these from /v1/jobs")
        return value

    def request(self, webhook: Webhook | None = None) -> JobRequest:
        """The same, as what every front parses into."""
        options = TranscriptionOptions.of(self)
        return JobRequest(source=UrlSource(url=self.url), options=options, webhook=webhook, dialect="verda")


def _refused(error: ServiceError) -> Response:
    return JSONResponse(Detail(detail=error.message).model_dump(), error.status, headers_of(error))


# What is no name is not found in this front's shape too.
_FOLDER = _NAME.replace(_CHARACTERS, "[^/]+")
_PATHS = rf"/(?:(?:{_FOLDER}/)?(?:generate|generate_webhook)|{_FOLDER}/health|result/[^/]+)"

DIALECT = ErrorFormat(re.compile(_PATHS), _refused)
STATUSES = ErrorFormat(re.compile(r"/status/[^/]+"), _refused, header=ID)
"""Without the header the path is another front's."""


@dataclass(frozen=True)
class Call:
    """The deployment, the way to answer, and the inference id of a request, from its path and headers."""

    deployment: str
    way: str | None
    preferred: Preferences
    inference_id: str | None


def _call(
    request: Request,
    prefer: Annotated[
        list[str] | None,
        Header(
            alias="Prefer",
            description="`respond-async`: 202 at once, and the text at `/result`, or the text itself if it is there "
            "within `wait=N` seconds; `respond-async-proxy`: an empty 202; `respond-async-container`: as without. "
            "Anything else is passed over (RFC 7240).",
        ),
    ] = None,
    inference_id: Annotated[
        str | None,
        Header(
            alias=ID,
            max_length=ID_CHARACTERS,
            pattern=ID_PATTERN,
            description="An id of your own for what runs in the background; the same id and request: the same job.",
        ),
    ] = None,
) -> Call:
    preferred = preferences(prefer or ())
    return Call(
        deployment=request.path_params.get("deployment", DEPLOYMENT),
        way=next((way for way in preferred if way in WAYS), None),
        preferred=Preferences(preferred),
        inference_id=inference_id,
    )


CallDep = Annotated[Call, Depends(_call)]


_ERRORS = DIALECT.errors(404, 408, 422, 429)
_TEXT = {"result": TRANSCRIPT.text}
_ACCEPTED = {"Id": "call-17", "StatusPath": "/status/whisper", "ResultPath": "/result/whisper"}
_WAITED = response("The text.", _TEXT, headers=(ID, "Preference-Applied"), model=Result)
_LATER = response(
    "It runs in the background, as preferred: where, or to `respond-async-proxy` nothing.",
    _ACCEPTED,
    headers=(ID, "Location", "Preference-Applied"),
    model=Accepted,
)

container = APIRouter(route_class=DIALECT.route)


@container.post(
    "/generate",
    summary="The text of the audio behind a URL",
    response_model=Result,
    responses=_ERRORS | DIALECT.errors(409) | {200: _WAITED, 202: _LATER},
)
async def generate(service: ServiceDep, call: CallDep, body: GenerateBody) -> Response:
    if call.way in ("respond-async", "respond-async-proxy"):
        return await _background(service, call, await _submit(service, call, body.request()))
    transcript = await service.transcribe(body.request())
    return JSONResponse({"result": speaker_text(transcript)}, headers=preference_applied_header(call.way))


@container.post(
    "/generate_webhook",
    status_code=202,
    summary="The same, sent to the configured webhook as the body `{'result': text}`",
    responses=_ERRORS
    | DIALECT.errors(409)
    | {
        200: _WAITED,
        202: response(
            "The text will be sent.",
            {"status": "accepted"},
            _ACCEPTED,
            headers=(ID, "Location", "Preference-Applied"),
            model=Sent | Accepted,
        ),
        500: response(
            "`verda.webhook` is not set.", {"status": "error", "details": "webhook not defined"}, model=Unset
        ),
    },
)
async def generate_webhook(service: ServiceDep, call: CallDep, body: GenerateBody) -> Response:
    url = service.settings.verda.webhook
    if url is None:
        return JSONResponse({"status": "error", "details": "webhook not defined"}, 500)
    # Receivers know one body: of a job that has no text nothing is sent.
    webhook = Webhook(url=str(url), events=("completed",))
    job = await _submit(service, call, body.request(webhook))
    if call.way in ("respond-async", "respond-async-proxy"):
        return await _background(service, call, job)
    return JSONResponse({"status": "accepted"}, 202, {ID: job.id} | preference_applied_header(call.way))


async def _submit(service: JobService, call: Call, request: JobRequest) -> Job:
    try:
        return await service.submit(request, call.inference_id)
    except Reused:
        raise Reused(f"{ID}: {call.inference_id!r} is another request's: choose a new one", ID, "id_reused") from None


async def _background(service: JobService, call: Call, job: Job) -> Response:
    """The answer to who prefers not to wait, or not for long."""
    if call.way == "respond-async-proxy":
        return Response(status_code=202, headers={ID: job.id} | preference_applied_header(call.way))
    waited = await call.preferred.waited(service, job)
    headers = {ID: job.id} | waited.headers
    if waited.ended:
        return JSONResponse({"result": await _text(service, waited.job)}, headers=headers)
    paths = Accepted(Id=job.id, StatusPath=f"/status/{call.deployment}", ResultPath=f"/result/{call.deployment}")
    return JSONResponse(paths.model_dump(), 202, headers | {"Location": paths.ResultPath})


_CANCELLED = "the inference was cancelled"


async def _text(service: JobService, job: Job) -> str:
    """Return the text of a job that has ended. Raises its error."""
    if job.state is JobState.CANCELLED:
        raise Conflict(_CANCELLED, ID, "cancelled")
    return speaker_text(await service.outcome(job))


InferenceId = Annotated[
    str, Header(alias=ID, description="The `Id` of the answer to the request.", examples=["call-17"])
]
Deployment = Annotated[
    str,
    Path(
        description="As in the request's path; there is one service, and any name is its own.",
        json_schema_extra={"pattern": f"^{_CHARACTERS}$"},
        examples=["whisper"],
    ),
]


def _named(deployment: Deployment) -> None:
    """Has the OpenAPI document know the name, which `_call` reads."""


deployed = APIRouter(prefix="/{deployment:deployment}", dependencies=[Depends(_named)], route_class=DIALECT.route)
deployed.include_router(container)
deployed.get(
    "/health",
    summary="Ready, as `/health` says",
    response_model=health.Health,
    responses=DIALECT.errors(404) | health.READY,
)(health.ready)

layer = APIRouter(route_class=DIALECT.route)


@layer.get(
    "/result/{deployment:deployment}",
    status_code=202,
    summary="What came of an inference, once its status is 3",
    response_model=Result,
    responses=_ERRORS
    | DIALECT.errors(409)
    | {202: response("The text; of one that failed, the error it failed of.", _TEXT)},
)
async def result(service: ServiceDep, deployment: Deployment, inference_id: InferenceId) -> Response:
    job = await service.get(inference_id)
    if not job.state.terminal:
        message = f"the inference is {job.state}, and has no result yet: ask /status/{deployment} until Status is 3"
        raise NotFound(message, ID, "not_ready")
    return JSONResponse({"result": await _text(service, job)}, 202)


statuses = APIRouter(route_class=STATUSES.route)


@statuses.get(
    "/status/{deployment:deployment}",
    summary="How an inference fares (with `X-Inference-Id`)",
    responses=DIALECT.errors(404)
    | {
        200: response(
            "Its status; `Error` is null unless it failed.",
            {"Id": "call-17", "Error": None, "Status": 2},
            {"Id": "call-17", "Error": "the URL answered 404 Not Found", "Status": 3},
        )
    },
)
async def status(service: ServiceDep, deployment: Deployment, inference_id: InferenceId) -> State:
    job = await service.get(inference_id)
    number, name = _STATES[job.state]
    error = _CANCELLED if job.state is JobState.CANCELLED else job.error and job.error.message
    return State(Id=job.id, Error=error, Status=name if service.settings.verda.status_names else number)


router = APIRouter(tags=["verda"])
for part in (container, deployed, layer, statuses):
    router.include_router(part)
