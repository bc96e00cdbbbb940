"""What a webhook says."""

import json
from datetime import datetime

from serve_app.jobs.models import EventType, Job, JobState
from serve_app.jobs.view import view
from serve_app.transcript import Transcript

ENDS: dict[JobState, EventType] = {
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


def wanted(job: Job, event: EventType) -> bool:
    """Whether a job's client asked to hear of such an event."""
    webhook = job.request.webhook
    return webhook is not None and event in webhook.events


def message(job: Job, event: EventType, at: datetime, transcript: Transcript | None = None) -> str:
    """`{type, timestamp, data}`: what happened, when, the job as clients see it and its transcript, as JSON."""
    data = view(job).model_dump(mode="json", exclude={"webhook"})
    if job.state.terminal:
        data["transcript"] = None if transcript is None else transcript.model_dump(mode="json")
    content = {"type": f"job.{event}", "timestamp": at.isoformat(), "data": data}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
