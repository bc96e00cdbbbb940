"""The jobs API: `/v1/jobs`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from serve_app.errors import InvalidRequest, UnsupportedMediaType
from serve_app.fronts.common.transcripts import transcript_response
from serve_app.fronts.common.uploads import base64_chunks, file_chunks
from serve_app.fronts.native import openapi
from serve_app.fronts.native.schemas import (
    Deleted,
    IdempotencyKey,
    JobBody,
    JobForm,
    JobList,
    JobsQuery,
    TranscriptQuery,
)
from serve_app.http.dependencies import JobIdPath, ServiceDep
from serve_app.http.error_format import as_invalid_request
from serve_app.http.multipart import check_repeated_fields, read_form
from serve_app.http.prefer import PreferencesDep
from serve_app.jobs.view import JobView, to_view
from serve_app.rendering.formats import check_speakers
from serve_app.schemas.job import Job
from serve_app.schemas.request import BodySource, JobRequest, Source, TranscriptionOptions, UploadSource, UrlSource
from serve_app.services.jobs import JobService

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=202,
    summary="Submit a recording as a job, which is answered at once",
    responses=openapi.SUBMIT,
    openapi_extra={"requestBody": openapi.JOB_BODY},
)
async def submit(
    service: ServiceDep,
    request: Request,
    response: Response,
    preferences: PreferencesDep,
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
    result = await preferences.wait_for(service, job)
    response.status_code = 200 if result.has_ended else 202
    response.headers.update(result.headers | {"Location": f"/v1/jobs/{job.id}"})
    return to_view(result.job)


async def _submit_json(service: JobService, raw: bytes, idempotency_key: str | None) -> Job:
    try:
        body = JobBody.model_validate_json(raw)
    except ValidationError as error:
        raise as_invalid_request(error) from None
    options = TranscriptionOptions.from_body(body)
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
        check_repeated_fields(form)
        fields = {name: value for name, value in form.items() if name != "file"}
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidRequest("file is required, as a multipart file part", "file", "missing")
        try:
            body = JobForm.model_validate(fields)
        except ValidationError as error:
            raise as_invalid_request(error) from None
        options = TranscriptionOptions.from_body(body)
        source = BodySource()
        job_request = JobRequest(source=source, options=options, webhook=body.webhook, priority=body.priority)
        return await service.submit(job_request, body.id, idempotency_key, file_chunks(file))


@router.get("", summary="List jobs, newest first", responses=openapi.LIST)
async def jobs(service: ServiceDep, query: Annotated[JobsQuery, Query()]) -> JobList:
    page = await service.list(query.status, query.limit, query.cursor, query.webhook)
    return JobList(data=[to_view(job) for job in page.data], next_cursor=page.next_cursor)


@router.get("/{job_id}", summary="Get a job", responses=openapi.GET)
async def job(service: ServiceDep, job_id: JobIdPath) -> JobView:
    return to_view(await service.get(job_id))


@router.get("/{job_id}/transcript", summary="Get the transcript of a job that succeeded", responses=openapi.TRANSCRIPT)
async def transcript(service: ServiceDep, job_id: JobIdPath, query: Annotated[TranscriptQuery, Query()]) -> Response:
    found = await service.result(job_id)
    check_speakers(found, query.format)
    return transcript_response(found, query.format, query, job_id)


@router.delete("/{job_id}", summary="Cancel a job that has not ended; delete one that has", responses=openapi.DELETE)
async def delete(service: ServiceDep, job_id: JobIdPath) -> JobView | Deleted:
    job = await service.get(job_id)
    if not job.state.terminal:
        return to_view(await service.cancel(job_id))
    await service.delete(job_id)
    return Deleted(id=job_id)
