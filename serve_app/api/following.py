"""What happens to a job, as it happens: `/v1/jobs/{id}/events`, and the webhooks that tell of it."""

from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from serve_app.api.context import ServiceDep
from serve_app.api.errors import responses
from serve_app.errors import NotFound
from serve_app.jobs.models import DeliveryView, JobEvent
from serve_app.options import Strict
from serve_app.service import LONG_POLL_S

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

LastEventId = Annotated[
    int,
    Header(ge=0, alias="Last-Event-ID", description="The number of the last event seen: the ones after it come."),
]


class DeliveryList(BaseModel):
    """A job's webhooks, oldest first."""

    object: Literal["list"] = "list"
    data: tuple[DeliveryView, ...]


class Redelivery(Strict):
    """What to send again."""

    id: str | None = Field(None, description="A delivery's id; null: all of the job's that are delivered or failed.")


async def first_events(service: ServiceDep, job_id: str, last_event_id: LastEventId = 0) -> tuple[JobEvent, ...]:
    """The events there are already. Before the stream begins: an unknown job is a 404."""
    await service.jobs.get(job_id)
    return await service.jobs.events(job_id, last_event_id, 0.0)


@router.get(
    "/events",
    summary="What happens to a job, as server-sent events",
    response_class=EventSourceResponse,
    responses=responses(404),
)
async def events(
    service: ServiceDep,
    job_id: str,
    found: Annotated[tuple[JobEvent, ...], Depends(first_events)],
    last_event_id: LastEventId = 0,
) -> AsyncIterable[ServerSentEvent]:
    """Everything since `Last-Event-ID`, then what comes; the stream ends with the job."""
    seen = last_event_id
    with suppress(NotFound):  # forgotten while it was followed
        while found or not (await service.jobs.get(job_id)).state.terminal:
            for event in found:
                seen = event.number
                yield ServerSentEvent(event=event.type, id=str(event.number), data=event.model_dump(mode="json"))
            found = await service.jobs.events(job_id, seen, LONG_POLL_S)


@router.get("/deliveries", summary="A job's webhooks, and every try at them", responses=responses(404))
async def deliveries(service: ServiceDep, job_id: str) -> DeliveryList:
    return DeliveryList(data=await service.jobs.deliveries(job_id))


@router.post("/deliveries", status_code=202, summary="Send a job's webhooks again", responses=responses(404, 409))
async def redeliver(service: ServiceDep, job_id: str, body: Redelivery | None = None) -> DeliveryList:
    return DeliveryList(data=await service.jobs.redeliver(job_id, body.id if body else None))
