"""The native jobs API: `/v1/jobs`."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field, Json, ValidationError, model_validator
from starlette.datastructures import UploadFile

from serve_app.errors import InvalidRequest, UnsupportedMediaType
from serve_app.fronts.openai.routes import RENDERED, respond
from serve_app.fronts.uploads import base64_chunks, file_chunks
from serve_app.http.dependencies import KnownId, ServiceDep
from serve_app.http.error_handlers import invalid, responses
from serve_app.http.multipart import read_form, refuse_repeats
from serve_app.http.openapi.document import response
from serve_app.http.openapi.examples import QUEUED, SUCCEEDED, URL
from serve_app.http.openapi.schema import schema_of
from serve_app.http.prefer import PreferredDep
from serve_app.jobs.view import JobView, to_view
from serve_app.rendering.formats import Format, check_speakers
from serve_app.rendering.subtitles import Layout
from serve_app.schemas.job import ID_CHARACTERS, ID_PATTERN, KEY_CHARACTERS, MAX_PAGE, Job, JobState, WebhookState
from serve_app.schemas.request import (
    BodySource,
    DiarizationOptions,
    JobRequest,
    Priority,
    Source,
    StrictModel,
    TranscriptionOptions,
    UploadSource,
    UrlSource,
    VadOptions,
    Webhook,
)
from serve_app.services.jobs import JobService

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


JobId = Annotated[
    str | None,
    Field(
        max_length=ID_CHARACTERS,
        pattern=ID_PATTERN,
        description="An id of your own; null: the service makes one. The same id and request again: the same job.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_CHARACTERS,
        description="The same key and request again: the same job; another request is refused.",
    ),
]


class JobBody(TranscriptionOptions):
    """A job as JSON: one of `url`, `upload_id` and `audio`, a webhook if wanted, and the options."""

    url: str | None = Field(None, description="http(s) URL of the audio.")
    upload_id: str | None = Field(None, description="The id of an upload, made by `POST /v1/uploads` and put there.")
    audio: str | None = Field(None, description="Base64 of the audio, or a data URL.")
    webhook: Webhook | None = None
    priority: Priority = Field("normal", description="Jobs of a higher priority run first.")
    id: JobId = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.url, self.upload_id, self.audio].count(None) != 2:
            raise ValueError("exactly one of url, upload_id and audio (or a multipart body with file) is required")
        return self


class JobForm(TranscriptionOptions):
    """A job as multipart fields beside `file`; `webhook`, `vad` and `diarization` as JSON."""

    vad: Json[VadOptions] | None = None
    diarization: Json[DiarizationOptions] | None = None
    webhook: Json[Webhook] | None = None
    priority: Priority = Field("normal", description="Jobs of a higher priority run first.")
    id: JobId = None


class Deleted(BaseModel):
    """A job that is forgotten."""

    id: str
    object: Literal["job.deleted"] = "job.deleted"
    deleted: Literal[True] = True


class JobsQuery(StrictModel):
    """The query parameters of a job list."""

    status: JobState | None = Field(None, description="Only jobs in this state.")
    webhook: WebhookState | None = Field(
        None, description="Only jobs whose webhook of the end is so far; `failed`: given up, send it again."
    )
    limit: int = Field(20, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")


class TranscriptQuery(Layout):
    """The query parameters of a transcript."""

    format: Format = "json"


class JobList(BaseModel):
    """A page of jobs, newest first; `next_cursor` is null on the last."""

    object: Literal["list"] = "list"
    data: list[JobView]
    next_cursor: str | None


_BODY = {
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
JOB = to_view(QUEUED).model_dump(mode="json")
"""A job, as clients see it."""

ENDED = to_view(SUCCEEDED).model_dump(mode="json")
_GIVEN = ("Location", "Preference-Applied")


@router.post(
    "",
    status_code=202,
    summary="Submit a recording; the answer comes at once",
    responses=responses(404, 422, 429)
    | {
        200: response("It has ended within the time to wait.", ENDED, headers=_GIVEN, model=JobView),
        202: response("Accepted.", JOB, headers=_GIVEN),
    },
    openapi_extra={"requestBody": _BODY},
)
async def submit(
    service: ServiceDep,
    request: Request,
    response: Response,
    preferred: PreferredDep,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    match request.headers.get("content-type", "").partition(";")[0].strip().lower():
        case "application/json":
            job = await _submit_json(service, await request.body(), idempotency_key)
        case "multipart/form-data":
            job = await _submit_form(service, request, idempotency_key)
        case other:
            raise UnsupportedMediaType(
                f"content-type {other!r}: send application/json or multipart/form-data", "content-type"
            )
    waited = await preferred.waited(service, job)
    response.status_code = 200 if waited.ended else 202
    response.headers.update(waited.headers | {"Location": f"/v1/jobs/{job.id}"})
    return to_view(waited.job)


async def _submit_json(service: JobService, raw: bytes, idempotency_key: str | None) -> Job:
    try:
        body = JobBody.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None
    options = TranscriptionOptions.of(body)
    source: Source = BodySource()
    audio = None
    if body.url is not None:
        source = UrlSource(url=body.url)
    elif body.upload_id is not None:
        source = UploadSource(id=body.upload_id)
    else:
        audio = base64_chunks(body.audio or "", "audio")
    job_request = JobRequest(source=source, options=options, webhook=body.webhook, priority=body.priority)
    return await service.submit(job_request, body.id, idempotency_key, audio)


async def _submit_form(service: JobService, request: Request, idempotency_key: str | None) -> Job:
    await read_form(request)
    async with request.form() as form:
        refuse_repeats(form)
        fields = {name: value for name, value in form.items() if name != "file"}
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidRequest("file is required, as a multipart file part", "file", "missing")
        try:
            body = JobForm.model_validate(fields)
        except ValidationError as error:
            raise invalid(error) from None
        options = TranscriptionOptions.of(body)
        source = BodySource()
        job_request = JobRequest(source=source, options=options, webhook=body.webhook, priority=body.priority)
        return await service.submit(job_request, body.id, idempotency_key, file_chunks(file))


_PAGE = {"object": "list", "data": [ENDED], "next_cursor": None}


@router.get("", summary="Jobs, newest first", responses=responses() | {200: response("A page.", _PAGE)})
async def jobs(service: ServiceDep, query: Annotated[JobsQuery, Query()]) -> JobList:
    page = await service.list(query.status, query.limit, query.cursor, query.webhook)
    return JobList(data=[to_view(job) for job in page.data], next_cursor=page.next_cursor)


@router.get("/{job_id}", summary="One job", responses=responses(404) | {200: response("The job.", ENDED)})
async def job(service: ServiceDep, job_id: KnownId) -> JobView:
    return to_view(await service.get(job_id))


@router.get(
    "/{job_id}/transcript", summary="The text of a job that succeeded", responses=responses(404, 409) | {200: RENDERED}
)
async def transcript(service: ServiceDep, job_id: KnownId, query: Annotated[TranscriptQuery, Query()]) -> Response:
    found = await service.result(job_id)
    check_speakers(found, query.format)
    return respond(found, query.format, query, job_id)


@router.delete(
    "/{job_id}",
    summary="Cancel a job that has not ended; forget one that has",
    responses=responses(404, 409)
    | {
        200: response(
            "The job, or that it is forgotten.", JOB | {"status": "cancelled"}, Deleted(id="call-17").model_dump()
        )
    },
)
async def delete(service: ServiceDep, job_id: KnownId) -> JobView | Deleted:
    job = await service.get(job_id)
    if not job.state.terminal:
        return to_view(await service.cancel(job_id))
    await service.delete(job_id)
    return Deleted(id=job_id)
