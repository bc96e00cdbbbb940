"""The body of a webhook, in the format of the front by which the job was submitted."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from serve_app.schemas.job import EventType, Job, JobState
from serve_app.schemas.transcript import Transcript

WebhookPayload = Callable[[Job, EventType, datetime, Transcript | None], dict[str, Any]]
"""Renders an event of a job, with its time; the transcript is given when the job has just succeeded."""

FINAL_EVENTS: dict[JobState, EventType] = {
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
"""The event of each final state."""


def is_subscribed(job: Job, event: EventType) -> bool:
    """Return whether the job's webhook is subscribed to an event."""
    webhook = job.request.webhook
    return webhook is not None and event in webhook.events


def webhook_body(
    payloads: Mapping[str, WebhookPayload],
    job: Job,
    event: EventType,
    at: datetime,
    transcript: Transcript | None = None,
) -> str:
    """Return the JSON body of a job's webhook. `payloads`: by `JobRequest.webhook_format`.

    A stored job whose front is no longer part of the service has the native payload.
    """
    payload = payloads.get(job.request.webhook_format) or payloads["native"]
    content = payload(job, event, at, transcript)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
