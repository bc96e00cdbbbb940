"""The Insanely-Fast-Whisper API: `POST /`, `/tasks`, `/status/{task_id}`, `/cancel/{task_id}`.

Its words are those of https://github.com/JigsawStack/insanely-fast-whisper-api. A task is a job.
"""

import re
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from fastapi import APIRouter, Body, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError, model_validator

from serve_app.errors import Conflict, InvalidRequest, ServiceError
from serve_app.fronts.bodies import ChunkedText
from serve_app.fronts.native.jobs import JobId
from serve_app.http.dependencies import KnownId, ServiceDep
from serve_app.http.error_format import Detail, ErrorFormat
from serve_app.http.error_handlers import headers_of, invalid, with_field
from serve_app.http.openapi.document import response
from serve_app.http.openapi.examples import TRANSCRIPT
from serve_app.http.prefer import PreferredDep
from serve_app.rendering.formats import chunked
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import (
    DiarizationOptions,
    JobRequest,
    StrictModel,
    Task,
    TranscriptionOptions,
    UrlSource,
    Webhook,
)
from serve_app.services.jobs import JobService


def render(error: ServiceError) -> JSONResponse:
    """An error in this front's shape, and under its own names where a client may look for them."""
    match error.code, error.param:
        case "invalid_api_key", _:
            detail = "Unauthorized"
        case "invalid_url", "url":
            detail = "Invalid URL"
        case "not_found", "job_id":
            detail = "Task not found"
        case "invalid_header", _:
            detail = error.message.replace("webhook.headers", "webhook.header", 1)
        case "diarization_off", _:
            detail = error.message.replace("diarization", "diarise_audio", 1)
        case _, "id" | "job_id":
            detail = f"managed_task_id: {error.message}"
        case _:
            detail = with_field(error)
    return JSONResponse(Detail(detail=detail).model_dump(), error.status, headers_of(error))


DIALECT = ErrorFormat(re.compile(r"/|/tasks|/(status|cancel)/[^/]+"), render)

VERDAS = "x-inference-id"
"""`/status/{…}` is Verda's where a request has this header."""

router = APIRouter(tags=["insanely-fast-whisper"], route_class=DIALECT.route)


class TaskWebhook(StrictModel):
    """The webhook that the output or the error is posted to."""

    url: str
    header: dict[str, str] = Field(default_factory=dict, description="Sent with every delivery.")

    def webhook(self) -> Webhook:
        """The same, as what every front parses into."""
        # Clients of the original say what is sent in any case.
        headers = {name: value for name, value in self.header.items() if not _is_json(name, value)}
        return Webhook(url=self.url, headers=headers)


def _is_json(name: str, value: str) -> bool:
    return name.lower() == "content-type" and value.partition(";")[0].strip().lower() == "application/json"


class TaskBody(StrictModel):
    """A transcription request."""

    url: str = Field(description="http(s) URL of the audio.")
    task: Task = Field("transcribe", description="`translate` writes English.")
    language: str | None = Field(
        None, description="ISO-639-1 code or English name; `None` or null: detect it in every window."
    )
    batch_size: int = Field(64, ge=1, description="Windows of this task decoded at a time at most.")
    timestamp: Literal["chunk", "word"] = Field("chunk", description="`word`: a chunk for every word.")
    diarise_audio: bool = Field(False, description="Tell who says what: `speakers` in the output.")
    webhook: TaskWebhook | None = None
    is_async: bool = Field(False, description="Answer at once, and POST the output to the webhook.")
    managed_task_id: JobId = None

    @model_validator(mode="after")
    def _webhook_if_async(self) -> Self:
        if self.is_async and self.webhook is None:
            raise ValueError("Webhook is required for async tasks")
        return self

    def request(self) -> JobRequest:
        """The same, as what every front parses into."""
        try:
            options = TranscriptionOptions(
                task=self.task,
                language=None if self.language == "None" else self.language,
                batch_size=self.batch_size,
                timestamps="word" if self.timestamp == "word" else "segment",
                diarization=DiarizationOptions() if self.diarise_audio else None,
            )
        except ValidationError as error:
            raise invalid(error) from None
        webhook = None if self.webhook is None else self.webhook.webhook()
        return JobRequest(source=UrlSource(url=self.url), options=options, webhook=webhook, dialect="insanely_fast")


_EXAMPLES: dict[str, Any] = {
    "wait": {"value": {"url": "https://example.com/talk.mp3", "timestamp": "word"}},
    "webhook": {
        "value": {
            "url": "https://example.com/talk.mp3",
            "is_async": True,
            "webhook": {"url": "https://example.com/done", "header": {"x-tenant": "7"}},
            "managed_task_id": "call-17",
        }
    },
}


class Standing(BaseModel):
    """The status of a task."""

    status: Literal["processing", "completed", "error", "cancelled"]
    output: ChunkedText | None = Field(None, description="Of one that is completed.")
    error: str | None = Field(None, description="Why one has failed.")


class Answer(Standing):
    """The same to who has sent it."""

    task_id: str
    detail: str | None = Field(None, description="Of one in the background.")


class Tasks(BaseModel):
    """The list of tasks."""

    tasks: tuple[str, ...]


_COMPLETED = {"status": "completed", "output": chunked(TRANSCRIPT)}
_BACKGROUND = {"detail": "Task is being processed in the background", "status": "processing"}
_ERROR = {"status": "error", "error": "the URL answered 404 Not Found"}
_CANCELLED = {"status": "cancelled"}
_GIVEN = ("Location", "Preference-Applied")


@router.post(
    "/",
    summary="Transcribe the audio behind a URL: wait for the text, or have it sent to a webhook",
    response_model=None,
    responses=DIALECT.errors(408, 409, 422, 429)
    | {
        200: response(
            "The text; with `is_async` that it will be sent.",
            _COMPLETED | {"task_id": "call-17"},
            _BACKGROUND | {"task_id": "call-17"},
            headers=_GIVEN,
            model=Answer,
        ),
        202: response(
            "It runs in the background, as preferred.",
            _BACKGROUND | {"task_id": "call-17"},
            headers=_GIVEN,
            model=Answer,
        ),
    },
)
async def transcribe(
    service: ServiceDep,
    response: Response,
    body: Annotated[TaskBody, Body(openapi_examples=_EXAMPLES)],
    preferred: PreferredDep,
) -> dict[str, Any]:
    task_id = body.managed_task_id or uuid4().hex
    if not (body.is_async or preferred.in_background):
        transcript = await service.transcribe(body.request(), task_id)
        return {"output": chunked(transcript), "status": "completed", "task_id": task_id}
    waited = await preferred.waited(service, await service.submit(body.request(), task_id))
    response.headers.update(waited.headers | {"Location": f"/status/{task_id}"})
    if waited.job.state.terminal:  # in that time, or the same task was submitted before
        if not body.is_async:
            await service.outcome(waited.job)
        return await _state(service, waited.job) | {"task_id": task_id}
    # The original's clients look for 200; who prefers has the text in a 200, and tells the two apart by that.
    response.status_code = 202 if preferred.in_background else 200
    return _BACKGROUND | {"task_id": task_id}


@router.get(
    "/tasks",
    summary="The ids of all tasks that have not ended",
    responses=DIALECT.errors() | {200: response("Oldest first.", {"tasks": ["call-17"]})},
)
async def tasks(service: ServiceDep) -> Tasks:
    return Tasks(tasks=await service.list_active())


async def status(service: ServiceDep, task_id: KnownId) -> dict[str, Any]:
    return await _state(service, await service.get(task_id))


router.add_api_route(
    "/status/{task_id}",
    status,
    route_class_override=DIALECT.route_with_header(VERDAS, given=False),
    summary="How a task stands; of one that has ended until it is forgotten",
    response_model=None,
    responses=DIALECT.errors(404)
    | {200: response("How it stands.", {"status": "processing"}, _COMPLETED, _ERROR, _CANCELLED, model=Standing)},
)


@router.delete(
    "/cancel/{task_id}",
    summary="Stop a background task; one that has ended is shown as it is",
    response_model=None,
    responses=DIALECT.errors(404)
    | {200: response("How it stands now.", _CANCELLED, _COMPLETED, _ERROR, model=Standing)},
)
async def cancel(service: ServiceDep, task_id: KnownId) -> dict[str, Any]:
    try:
        job = await service.cancel(task_id)
    except Conflict:
        raise InvalidRequest("Not a background task: it ends when its request is closed") from None
    return await _state(service, job)


async def _state(service: JobService, job: Job) -> dict[str, Any]:
    match job.state:
        case JobState.SUCCEEDED:
            return {"status": "completed", "output": chunked(await service.result(job.id))}
        case JobState.FAILED:
            return {"status": "error", "error": job.error.message if job.error else ""}
        case JobState.CANCELLED:
            return {"status": "cancelled"}
        case _:
            return {"status": "processing"}
