"""The routes of OctoAI's endpoints: `/infer`, at once or in the background."""

from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse

from serve_app.errors import ServiceError
from serve_app.fronts.common.uploads import base64_chunks
from serve_app.fronts.octoai import openapi
from serve_app.fronts.octoai.errors import ERROR_FORMAT, REQUEST_ID, render
from serve_app.fronts.octoai.schemas import Future, InferBody, Prediction, Progress
from serve_app.http.body_limits import require_json
from serve_app.http.dependencies import JobIdPath, ServiceDep, base_url
from serve_app.http.error_format import message_with_field
from serve_app.http.prefer import PreferencesDep
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import BodySource, JobRequest, Source, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import final_transcript

router = APIRouter(tags=["octoai"], route_class=ERROR_FORMAT.route)


@router.post(
    "/infer",
    summary="Transcribe a recording, as OctoAI's client requests it",
    response_model=Prediction,
    dependencies=[Depends(require_json)],
    responses=openapi.INFER,
)
async def infer(
    service: ServiceDep,
    request: Request,
    body: InferBody,
    preferences: PreferencesDep,
    is_async: Annotated[
        bool, Header(alias="X-OctoAI-Async", description="1: answer at once, with a URL to poll.")
    ] = False,
) -> JSONResponse:
    options = TranscriptionOptions.from_body(body)
    source: Source = BodySource() if body.url is None else UrlSource(url=body.url)
    audio = base64_chunks(body.audio or "", "audio") if body.url is None else None
    job_request = JobRequest(source=source, options=options)
    request_id = uuid4().hex
    headers = {REQUEST_ID: request_id}
    try:
        if is_async or preferences.respond_async:
            result = await preferences.wait_for(service, await service.submit(job_request, request_id, body=audio))
            headers |= result.headers
            if not result.has_ended:
                poll_url = f"{base_url(service, request)}/v1/requests/{request_id}"
                future = Future(response_id=request_id, poll_url=poll_url)
                return JSONResponse(future.model_dump(), 201, headers | {"Location": poll_url})
            transcript = await service.outcome(result.job)
        else:
            transcript = await final_transcript(service.transcribe(job_request, request_id, body=audio))
    except ServiceError as error:
        return render(error, request_id)
    return JSONResponse(Prediction.of(transcript).model_dump(), headers=headers)


@router.get(
    "/v1/requests/{response_id}",
    summary="Get the status of a request in the background",
    response_model=Progress,
    responses=openapi.POLL,
)
async def poll(service: ServiceDep, request: Request, response_id: JobIdPath) -> JSONResponse:
    job = await service.get(response_id)
    progress = Progress(
        response_id=response_id,
        status=_status(job),
        response_url=f"{base_url(service, request)}/v1/responses/{response_id}",
        detail=message_with_field(job.error) if job.error else None,
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
    summary="Get the response to a request in the background, or its error",
    response_model=Prediction,
    responses=openapi.RESULT,
)
async def result(service: ServiceDep, response_id: JobIdPath) -> JSONResponse:
    job = await service.get(response_id)
    try:
        transcript = await service.outcome(job)
    except ServiceError as error:
        return render(error, response_id)
    return JSONResponse(Prediction.of(transcript).model_dump(), headers={REQUEST_ID: response_id})
