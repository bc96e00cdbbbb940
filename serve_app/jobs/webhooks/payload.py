"""Webhook payloads, in the format of the front that the job was submitted by."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from serve_app.jobs.view import to_view
from serve_app.rendering.formats import chunked
from serve_app.rendering.speaker_labels import speaker_text
from serve_app.schemas.job import EventType, Job, JobState
from serve_app.schemas.request import WebhookDialect
from serve_app.schemas.transcript import Transcript

ENDS: dict[JobState, EventType] = {
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


def is_subscribed(job: Job, event: EventType) -> bool:
    """Return whether the job's webhook is subscribed to an event."""
    webhook = job.request.webhook
    return webhook is not None and event in webhook.events


def message(job: Job, event: EventType, at: datetime, transcript: Transcript | None = None) -> str:
    """The body of a webhook, as JSON: what happened to a job, and when; its transcript if it has just succeeded."""
    content = BODIES[job.request.dialect](job, event, at, transcript)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _native(job: Job, event: EventType, at: datetime, transcript: Transcript | None) -> dict[str, Any]:
    """`{type, timestamp, data}`: what happened, when, the job as clients see it and its transcript."""
    data = to_view(job).model_dump(mode="json", exclude={"webhook"})
    if job.state.terminal:
        data["transcript"] = None if transcript is None else transcript.model_dump(mode="json")
    return {"type": f"job.{event}", "timestamp": at.isoformat(), "data": data}


def _insanely_fast(job: Job, event: EventType, at: datetime, transcript: Transcript | None) -> dict[str, Any]:
    """`{output, status, task_id}`, or `{error, status, task_id}`: this front's webhooks tell of the end only."""
    if transcript is not None:
        return {"output": chunked(transcript), "status": "completed", "task_id": job.id}
    # The original has these words for a task that was cancelled, and means to send them.
    error = job.error.message if job.error else "Task Cancelled"
    return {"error": error, "status": "error", "task_id": job.id}


def _verda(job: Job, event: EventType, at: datetime, transcript: Transcript | None) -> dict[str, Any]:
    """`{result}`: the text alone; this front's webhooks tell of success only."""
    return {"result": None if transcript is None else speaker_text(transcript)}


Body = Callable[[Job, EventType, datetime, Transcript | None], dict[str, Any]]

BODIES: dict[WebhookDialect, Body] = {"native": _native, "insanely_fast": _insanely_fast, "verda": _verda}
"""The payload function of each format."""
