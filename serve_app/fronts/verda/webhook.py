"""The webhook payload of Verda's API."""

from datetime import datetime
from typing import Any

from serve_app.rendering.speaker_labels import speaker_text
from serve_app.schemas.job import EventType, Job
from serve_app.schemas.transcript import Transcript


def webhook_payload(job: Job, event: EventType, at: datetime, transcript: Transcript | None) -> dict[str, Any]:
    """Return `{result}`, the text: webhooks of this API report only success."""
    return {"result": None if transcript is None else speaker_text(transcript)}
