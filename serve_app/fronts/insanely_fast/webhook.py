"""The webhook payload of the Insanely-Fast-Whisper API."""

from datetime import datetime
from typing import Any

from serve_app.rendering.formats import chunked
from serve_app.schemas.job import EventType, Job
from serve_app.schemas.transcript import Transcript


def webhook_payload(job: Job, event: EventType, at: datetime, transcript: Transcript | None) -> dict[str, Any]:
    """Return `{output, status, task_id}`, or `{error, status, task_id}`: webhooks of tasks report only the end."""
    if transcript is not None:
        return {"output": chunked(transcript), "status": "completed", "task_id": job.id}
    # The message that the original has, but never sends, for a cancelled task.
    error = job.error.message if job.error else "Task Cancelled"
    return {"error": error, "status": "error", "task_id": job.id}
