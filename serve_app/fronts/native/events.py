"""The events of a job as server-sent events (`/v1/jobs/{id}/events`), and its webhook deliveries."""

from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from serve_app.errors import NotFound
from serve_app.fronts.native import openapi
from serve_app.fronts.native.schemas import DeliveryList, LastEventId, Redelivery
from serve_app.http.dependencies import JobIdPath, ServiceDep
from serve_app.schemas.job import JobEvent
from serve_app.services.jobs import LONG_POLL_S

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


async def first_events(service: ServiceDep, job_id: JobIdPath, last_event_id: LastEventId = 0) -> tuple[JobEvent, ...]:
    """Return the events that exist already. It runs before the stream begins, so that an unknown job is a 404."""
    await service.get(job_id)
    return await service.events(job_id, last_event_id, 0.0)


@router.get(
    "/events",
    summary="Follow the events of a job, as server-sent events",
    response_class=EventSourceResponse,
    responses=openapi.EVENTS,
)
async def events(
    service: ServiceDep,
    job_id: JobIdPath,
    found: Annotated[tuple[JobEvent, ...], Depends(first_events)],
    last_event_id: LastEventId = 0,
) -> AsyncIterable[ServerSentEvent]:
    """All events after `Last-Event-ID`, then new ones as they happen; the stream ends with the job."""
    last_number = last_event_id
    with suppress(NotFound):  # the job was deleted meanwhile
        while found or not (await service.get(job_id)).state.terminal:
            for event in found:
                last_number = event.number
                yield ServerSentEvent(event=event.type, id=str(event.number), data=event.model_dump(mode="json"))
            found = await service.events(job_id, last_number, LONG_POLL_S)


@router.get("/deliveries", summary="List a job's webhook deliveries and their attempts", responses=openapi.DELIVERIES)
async def deliveries(service: ServiceDep, job_id: JobIdPath) -> DeliveryList:
    return DeliveryList(data=await service.deliveries(job_id))


@router.post("/deliveries", status_code=202, summary="Send a job's webhooks again", responses=openapi.REDELIVER)
async def redeliver(service: ServiceDep, job_id: JobIdPath, body: Redelivery | None = None) -> DeliveryList:
    return DeliveryList(data=await service.redeliver(job_id, body.id if body else None))
