"""The events of a job as server-sent events (`/v1/jobs/{id}/events`), and its webhook deliveries."""

from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from pydantic import BaseModel, ConfigDict, Field

from serve_app.errors import NotFound
from serve_app.http.dependencies import KnownId, ServiceDep
from serve_app.http.error_handlers import responses
from serve_app.http.openapi.document import response
from serve_app.http.openapi.examples import NOW
from serve_app.schemas.job import MOST_EVENTS, DeliveryAttempt, DeliveryView, JobEvent, JobState
from serve_app.schemas.request import StrictModel
from serve_app.services.jobs import LONG_POLL_S

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

LastEventId = Annotated[
    int,
    Header(
        ge=0,
        le=MOST_EVENTS,
        alias="Last-Event-ID",
        description="The number of the last event seen: the ones after it come.",
    ),
]


class DeliveryList(BaseModel):
    """A job's webhooks, oldest first."""

    object: Literal["list"] = "list"
    data: tuple[DeliveryView, ...]


class Redelivery(StrictModel):
    """The deliveries to send again."""

    model_config = ConfigDict(json_schema_extra={"example": {"id": "msg_2mXZ"}})

    id: str | None = Field(None, description="A delivery's id; null: all of the job's that are delivered or failed.")


_SENT = DeliveryList(
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
_STREAM = {
    "description": "The events; a comment now and then where nothing happens.",
    "content": {
        "text/event-stream": {
            "example": format_sse_event(data_str=_EVENT.model_dump_json(), event="completed", id="3").decode()
        }
    },
}


async def first_events(service: ServiceDep, job_id: KnownId, last_event_id: LastEventId = 0) -> tuple[JobEvent, ...]:
    """The events there are already. Before the stream begins: an unknown job is a 404."""
    await service.get(job_id)
    return await service.events(job_id, last_event_id, 0.0)


@router.get(
    "/events",
    summary="What happens to a job, as server-sent events",
    response_class=EventSourceResponse,
    responses=responses(404) | {200: _STREAM},
)
async def events(
    service: ServiceDep,
    job_id: KnownId,
    found: Annotated[tuple[JobEvent, ...], Depends(first_events)],
    last_event_id: LastEventId = 0,
) -> AsyncIterable[ServerSentEvent]:
    """Everything since `Last-Event-ID`, then what comes; the stream ends with the job."""
    seen = last_event_id
    with suppress(NotFound):  # forgotten while it was followed
        while found or not (await service.get(job_id)).state.terminal:
            for event in found:
                seen = event.number
                yield ServerSentEvent(event=event.type, id=str(event.number), data=event.model_dump(mode="json"))
            found = await service.events(job_id, seen, LONG_POLL_S)


@router.get(
    "/deliveries",
    summary="A job's webhooks, and every try at them",
    responses=responses(404) | {200: response("All of them.", _SENT)},
)
async def deliveries(service: ServiceDep, job_id: KnownId) -> DeliveryList:
    return DeliveryList(data=await service.deliveries(job_id))


@router.post(
    "/deliveries",
    status_code=202,
    summary="Send a job's webhooks again",
    responses=responses(404, 409) | {202: response("They will be.", _SENT)},
)
async def redeliver(service: ServiceDep, job_id: KnownId, body: Redelivery | None = None) -> DeliveryList:
    return DeliveryList(data=await service.redeliver(job_id, body.id if body else None))
