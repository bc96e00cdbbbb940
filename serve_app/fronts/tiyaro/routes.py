"""Tiyaro's asynchronous API: a recording is put to an upload URL, then submitted, and its answer polled for."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from serve_app.errors import NotFound, ServiceError, UploadNotFound
from serve_app.fronts.native.uploads import EXAMPLE, UploadBody, create_upload, parse_upload_url
from serve_app.fronts.whisper_input import WhisperInput
from serve_app.http.body_limits import require_json
from serve_app.http.dependencies import KnownId, ServiceDep, base_url
from serve_app.http.error_format import ErrorFormat
from serve_app.http.error_handlers import headers_of, with_field
from serve_app.http.openapi.document import response
from serve_app.http.openapi.examples import FAILED, QUEUED, SUCCEEDED, TRANSCRIPT
from serve_app.http.prefer import PreferredDep
from serve_app.net.ssrf import check_url
from serve_app.rendering.formats import as_whisper
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.request import JobRequest, Source, StrictModel, TranscriptionOptions, UploadSource, UrlSource
from serve_app.schemas.transcript import Transcript
from serve_app.services.jobs import JobService
from serve_app.settings import ServedModel, Tier

Status = Literal["accepted", "pending", "processing", "success", "failed", "cancelled"]

SIZES = ("large", "medium", "small", "tiny")

STATUS: dict[JobState, Status] = {
    JobState.QUEUED: "pending",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "success",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


class Error(BaseModel):
    """An error; `code` is an HTTP status."""

    code: int
    message: str

    @classmethod
    def of(cls, error: ServiceError | JobError) -> "Error":
        return cls(code=error.status, message=with_field(error))


def refused(error: ServiceError) -> JSONResponse:
    """The HTTP answer for an error."""
    return JSONResponse(Error.of(error).model_dump(), error.status, headers_of(error))


DIALECT = ErrorFormat(re.compile(r"/v1/input/upload-url|/v1/async/.*"), refused, Error)
router = APIRouter(prefix="/v1", tags=["tiyaro"], route_class=DIALECT.route)


class AsyncBody(StrictModel):
    """A recording, and Whisper's options."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"URL": "https://example.com/talk.mp3", "input": {"language": "en"}}}
    )

    input: WhisperInput = WhisperInput()
    url: str = Field(alias="URL", description="An upload URL to which a recording was put, or any http(s) URL of one.")


class AsyncQuery(StrictModel):
    """The size and tier of the model."""

    service_tier: Tier = Field("cpuflex", alias="serviceTier")


class UploadQuery(StrictModel):
    """The file that will be uploaded."""

    extension: str | None = Field(
        None, pattern=r"^[A-Za-z0-9]{1,10}$", description="Of the file's name; what it is, its content decides."
    )


class UploadUrl(BaseModel):
    """The URL to upload a recording to."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    upload_url: dict[Literal["PUT"], str] = Field(
        description="PUT the file's bytes there, with no header and no API key."
    )


class Inference(BaseModel):
    """A recording that was submitted, and what has become of it."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    id: str = Field(description="The job's id too.")
    model: str = Field(description="The one that is served here for the path that was asked.")
    status: Status
    accepted_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    result: dict[str, Any] | None = Field(description="`text`, `segments` and `language`, as Whisper has it.")
    error: Error | None = Field(description="Why it failed.")


class Submitted(Inference):
    """A recording that was submitted, and where to ask for its answer."""

    urls: dict[Literal["GET"], str]


class Accepted(BaseModel):
    """The answer to a submit."""

    response: Submitted


def _view(job: Job, model: str, transcript: Transcript | None = None) -> Inference:
    return Inference(
        id=job.id,
        model=job.request.model or model,
        status=STATUS[job.state],
        accepted_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.finished_at,
        result=as_whisper(transcript) if transcript else None,
        error=Error.of(job.error) if job.error else None,
    )


def _shown(job: Job, transcript: Transcript | None = None) -> dict[str, Any]:
    return _view(job, "openai/whisper-large-v3", transcript).model_dump(mode="json", by_alias=True)


_WAITING = _shown(QUEUED) | {"status": "accepted"}
_ENDED = _shown(SUCCEEDED, TRANSCRIPT)
_FAILED = _shown(FAILED)
_POLLED = {"urls": {"GET": "https://stt.example.com/v1/async/requests/call-17"}}
_GIVEN = ("Location", "Preference-Applied")


@router.post(
    "/input/upload-url",
    status_code=201,
    summary="A URL to put a recording to, as Tiyaro's clients ask for it",
    responses=DIALECT.errors() | {201: response("Where.", {"uploadUrl": {"PUT": EXAMPLE["url"]}})},
)
async def upload_url(
    service: ServiceDep, request: Request, query: Annotated[UploadQuery, Query()], body: UploadBody | None = None
) -> UploadUrl:
    return UploadUrl(upload_url={"PUT": create_upload(service, request).url})


@router.post(
    "/async/ent/tiyarofs/1/openai/whisper-{size}",
    status_code=202,
    summary="Submit a recording, as Tiyaro's clients do",
    dependencies=[Depends(require_json)],
    responses=DIALECT.errors(404, 429)
    | {
        200: response(
            "It has ended within the time to wait.", {"response": _ENDED | _POLLED}, headers=_GIVEN, model=Accepted
        ),
        202: response("Accepted.", {"response": _WAITING | _POLLED}, headers=_GIVEN),
    },
)
async def submit(
    service: ServiceDep,
    request: Request,
    response: Response,
    size: Annotated[str, Path(json_schema_extra={"enum": list(SIZES)})],
    query: Annotated[AsyncQuery, Query()],
    body: AsyncBody,
    preferred: PreferredDep,
) -> Accepted:
    if size not in SIZES:
        raise NotFound(
            f"whisper-{size} is not served: size must be one of {', '.join(SIZES)}", "size", "model_not_found"
        )
    model = select_model(service.settings.served_models, size, query.service_tier)
    options = TranscriptionOptions(**body.input.model_dump(), model=model.id)
    try:
        job = await service.submit(JobRequest(source=_source(service, body.url), options=options))
    except UploadNotFound as error:
        raise UploadNotFound(error.message.replace("upload_id", "URL"), "URL", error.code) from None
    poll = f"{base_url(service, request)}/v1/async/requests/{job.id}"
    waited = await preferred.waited(service, job)
    response.status_code = 200 if waited.ended else 202
    response.headers.update(waited.headers | {"Location": poll})
    state = await _current(service, waited.job)
    if not waited.ended:
        state.status = "accepted"
    return Accepted(response=Submitted(**state.model_dump(), urls={"GET": poll}))


def _source(service: JobService, url: str) -> Source:
    check_url(url, "URL")
    upload_id = parse_upload_url(service, url)
    return UrlSource(url=url) if upload_id is None else UploadSource(id=upload_id)


def select_model(models: Sequence[ServedModel], size: str, tier: Tier) -> ServedModel:
    """The model that a path's size and its service tier lead to.

    One of both, else one of the size, else one of the tier, else the first; of several the first. A model is of a
    size if one of its names, but for a hub's or folder's before it, is `whisper-large` or begins with `whisper-large-`.
    """

    def of_size(model: ServedModel) -> bool:
        return any(f"{name.lower().rpartition('/')[2]}-".startswith(f"whisper-{size}-") for name in model.names)

    return max(models, key=lambda model: (of_size(model), model.tier == tier))


@router.get(
    "/async/requests/{request_id}",
    summary="What has become of a recording, and its text",
    responses=DIALECT.errors(404)
    | {200: response("How it stands.", _ENDED, _WAITING | {"status": "pending"}, _FAILED)},
)
async def inference(service: ServiceDep, request_id: KnownId) -> Inference:
    return await _current(service, await service.get(request_id))


async def _current(service: JobService, job: Job) -> Inference:
    found = await service.result(job.id) if job.state is JobState.SUCCEEDED else None
    return _view(job, service.settings.model, found)
