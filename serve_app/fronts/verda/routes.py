"""The routes of Verda's API: `/generate` and `/generate_webhook`, also under `/{deployment}`, `/status`, `/result`."""

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from serve_app.errors import Conflict, IdempotencyConflict, NotFound
from serve_app.fronts.common.readiness import Health, ready
from serve_app.fronts.verda import openapi
from serve_app.fronts.verda.errors import ERROR_FORMAT, INFERENCE_ID, STATUS_ERROR_FORMAT
from serve_app.fronts.verda.parameters import (
    Deployment,
    InferenceId,
    RequestParameters,
    RequestParametersDep,
    document_deployment,
)
from serve_app.fronts.verda.schemas import AcceptedInference, GenerateBody, InferenceStatus, Result
from serve_app.http.dependencies import ServiceDep
from serve_app.http.prefer import preference_applied_header
from serve_app.rendering.speaker_labels import speaker_text
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import JobRequest, Webhook
from serve_app.schemas.transcript import final_transcript
from serve_app.services.jobs import JobService

_STATUSES = {
    JobState.QUEUED: (1, "Queue"),
    JobState.RUNNING: (2, "Inference"),
    JobState.SUCCEEDED: (3, "Completed"),
    JobState.FAILED: (3, "Completed"),
    JobState.CANCELLED: (3, "Completed"),
}
"""The number and name of a status. No job is 0, `Initialized`, as it is queued when it is created."""

_CANCELLED = "the inference was cancelled"

container = APIRouter(route_class=ERROR_FORMAT.route)


@container.post(
    "/generate",
    summary="Transcribe the audio behind a URL",
    response_model=Result,
    responses=openapi.GENERATE,
)
async def generate(service: ServiceDep, parameters: RequestParametersDep, body: GenerateBody) -> Response:
    if parameters.mode in ("respond-async", "respond-async-proxy"):
        job = await _submit(service, parameters, body.to_job_request())
        return await _respond_async(service, parameters, job)
    transcript = await final_transcript(service.transcribe(body.to_job_request()))
    return JSONResponse({"result": speaker_text(transcript)}, headers=preference_applied_header(parameters.mode))


@container.post(
    "/generate_webhook",
    status_code=202,
    summary="Transcribe the audio behind a URL, and send `{'result': text}` to the configured webhook",
    responses=openapi.GENERATE_WEBHOOK,
)
async def generate_webhook(service: ServiceDep, parameters: RequestParametersDep, body: GenerateBody) -> Response:
    url = service.settings.verda.webhook
    if url is None:
        return JSONResponse({"status": "error", "details": "webhook not defined"}, 500)
    # Receivers expect a body with a text: nothing is sent for a job without a text.
    webhook = Webhook(url=str(url), events=("completed",))
    job = await _submit(service, parameters, body.to_job_request(webhook))
    if parameters.mode in ("respond-async", "respond-async-proxy"):
        return await _respond_async(service, parameters, job)
    return JSONResponse(
        {"status": "accepted"}, 202, {INFERENCE_ID: job.id} | preference_applied_header(parameters.mode)
    )


async def _submit(service: JobService, parameters: RequestParameters, request: JobRequest) -> Job:
    inference_id = parameters.inference_id
    try:
        return await service.submit(request, inference_id)
    except IdempotencyConflict:
        message = f"{INFERENCE_ID}: {inference_id!r} belongs to another request: choose a new one"
        raise IdempotencyConflict(message, INFERENCE_ID, "id_reused") from None


async def _respond_async(service: JobService, parameters: RequestParameters, job: Job) -> Response:
    """Answer a request that prefers not to wait, or to wait for a limited time."""
    if parameters.mode == "respond-async-proxy":
        headers = {INFERENCE_ID: job.id} | preference_applied_header(parameters.mode)
        return Response(status_code=202, headers=headers)
    result = await parameters.preferences.wait_for(service, job)
    headers = {INFERENCE_ID: job.id} | result.headers
    if result.has_ended:
        return JSONResponse({"result": await _text(service, result.job)}, headers=headers)
    deployment = parameters.deployment
    paths = AcceptedInference(Id=job.id, StatusPath=f"/status/{deployment}", ResultPath=f"/result/{deployment}")
    return JSONResponse(paths.model_dump(), 202, headers | {"Location": paths.ResultPath})


async def _text(service: JobService, job: Job) -> str:
    """Return the text of a job that has ended. Raises its error."""
    if job.state is JobState.CANCELLED:
        raise Conflict(_CANCELLED, INFERENCE_ID, "cancelled")
    return speaker_text(await service.outcome(job))


deployed = APIRouter(
    prefix="/{deployment:deployment}", dependencies=[Depends(document_deployment)], route_class=ERROR_FORMAT.route
)
deployed.include_router(container)
deployed.add_api_route(
    "/health",
    ready,
    methods=["GET"],
    summary="Readiness, the same as `/health`",
    response_model=Health,
    responses=openapi.HEALTH,
)

results = APIRouter(route_class=ERROR_FORMAT.route)
statuses = APIRouter(route_class=STATUS_ERROR_FORMAT.route)


@results.get(
    "/result/{deployment:deployment}",
    status_code=202,
    summary="Get the result of an inference whose status is 3",
    response_model=Result,
    responses=openapi.RESULT,
)
async def result(service: ServiceDep, deployment: Deployment, inference_id: InferenceId) -> Response:
    job = await service.get(inference_id)
    if not job.state.terminal:
        message = f"the inference is {job.state}, and has no result yet: poll /status/{deployment} until Status is 3"
        raise NotFound(message, INFERENCE_ID, "not_ready")
    return JSONResponse({"result": await _text(service, job)}, 202)


@statuses.get(
    "/status/{deployment:deployment}",
    summary="Get the status of an inference (with `X-Inference-Id`)",
    responses=openapi.STATUS,
)
async def status(service: ServiceDep, deployment: Deployment, inference_id: InferenceId) -> InferenceStatus:
    job = await service.get(inference_id)
    number, name = _STATUSES[job.state]
    error = _CANCELLED if job.state is JobState.CANCELLED else job.error and job.error.message
    return InferenceStatus(Id=job.id, Error=error, Status=name if service.settings.verda.status_names else number)


router = APIRouter(tags=["verda"])
for part in (container, deployed, results, statuses):
    router.include_router(part)
