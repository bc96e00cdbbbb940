"""The routes of the Insanely-Fast-Whisper API: `POST /`, `/tasks`, `/status/{task_id}`, `/cancel/{task_id}`."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Body, Response

from serve_app.errors import Conflict, InvalidRequest
from serve_app.fronts.insanely_fast import openapi
from serve_app.fronts.insanely_fast.errors import ERROR_FORMAT
from serve_app.fronts.insanely_fast.schemas import TaskBody, Tasks
from serve_app.http.dependencies import JobIdPath, ServiceDep
from serve_app.http.prefer import PreferencesDep
from serve_app.rendering.formats import chunked
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.transcript import final_transcript
from serve_app.services.jobs import JobService

VERDA_HEADER = "x-inference-id"
"""`/status/{…}` belongs to Verda's API in requests with this header."""

router = APIRouter(tags=["insanely-fast-whisper"], route_class=ERROR_FORMAT.route)


@router.post(
    "/",
    summary="Transcribe the audio behind a URL, and wait for the transcript or have it sent to a webhook",
    response_model=None,
    responses=openapi.TRANSCRIBE,
)
async def transcribe(
    service: ServiceDep,
    response: Response,
    body: Annotated[TaskBody, Body(openapi_examples=openapi.TASK_EXAMPLES)],
    preferences: PreferencesDep,
) -> dict[str, Any]:
    task_id = body.managed_task_id or uuid4().hex
    if not (body.is_async or preferences.respond_async):
        transcript = await final_transcript(service.transcribe(body.to_job_request(), task_id))
        return {"output": chunked(transcript), "status": "completed", "task_id": task_id}
    result = await preferences.wait_for(service, await service.submit(body.to_job_request(), task_id))
    response.headers.update(result.headers | {"Location": f"/status/{task_id}"})
    if result.job.state.terminal:  # during the wait, or the same task was submitted before
        if not body.is_async:
            await service.outcome(result.job)
        return await _task_status(service, result.job) | {"task_id": task_id}
    # The original's clients expect 200. Clients that prefer `respond-async` get the transcript with 200, so 202 tells
    # them that it is still to come.
    response.status_code = 202 if preferences.respond_async else 200
    return {"detail": "Task is being processed in the background", "status": "processing", "task_id": task_id}


@router.get("/tasks", summary="List the ids of all tasks that have not ended", responses=openapi.TASKS)
async def tasks(service: ServiceDep) -> Tasks:
    return Tasks(tasks=await service.list_active())


async def status(service: ServiceDep, task_id: JobIdPath) -> dict[str, Any]:
    return await _task_status(service, await service.get(task_id))


router.add_api_route(
    "/status/{task_id}",
    status,
    route_class_override=ERROR_FORMAT.route_with_header(VERDA_HEADER, present=False),
    summary="Get the status of a task, until the retention time after its end",
    response_model=None,
    responses=openapi.STATUS,
)


@router.delete(
    "/cancel/{task_id}",
    summary="Cancel a background task; a task that has ended is returned as it is",
    response_model=None,
    responses=openapi.CANCEL,
)
async def cancel(service: ServiceDep, task_id: JobIdPath) -> dict[str, Any]:
    try:
        job = await service.cancel(task_id)
    except Conflict:
        raise InvalidRequest("Not a background task: close its request to cancel it") from None
    return await _task_status(service, job)


async def _task_status(service: JobService, job: Job) -> dict[str, Any]:
    match job.state:
        case JobState.SUCCEEDED:
            return {"status": "completed", "output": chunked(await service.result(job.id))}
        case JobState.FAILED:
            return {"status": "error", "error": job.error.message if job.error else ""}
        case JobState.CANCELLED:
            return {"status": "cancelled"}
        case _:
            return {"status": "processing"}
