"""The native webhook payload."""

from datetime import datetime
from typing import Any

from serve_app.jobs.view import to_view
from serve_app.schemas.job import EventType, Job
from serve_app.schemas.transcript import Transcript


def webhook_payload(job: Job, event: EventType, at: datetime, transcript: Transcript | None) -> dict[str, Any]:
    """Return `{type, timestamp, data}`: the event, its time, and the job with its transcript."""
    data = to_view(job).model_dump(mode="json", exclude={"webhook"})
    if job.state.terminal:
        data["transcript"] = None if transcript is None else transcript.model_dump(mode="json")
    return {"type": f"job.{event}", "timestamp": at.isoformat(), "data": data}
