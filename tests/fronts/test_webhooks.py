"""The webhook payloads of the fronts."""

import json
from typing import Any

import pytest

from serve_app.fronts.registry import webhook_payloads
from serve_app.jobs.webhooks.payload import FINAL_EVENTS, webhook_body
from serve_app.schemas.job import JobError, JobState
from serve_app.schemas.request import JobRequest, UrlSource
from tests.jobs.helpers import NOW, TRANSCRIPT, queued_job

ERROR = JobError(message="the URL answered 404", type="invalid_request_error", status=400)


def body(webhook_format: str, state: JobState) -> Any:
    """Return the webhook payload of a job that has ended in this state."""
    request = JobRequest(source=UrlSource(url="https://example.com/a.mp3"), webhook_format=webhook_format)
    job = queued_job(id="call-17", request=request, state=state, error=ERROR if state is JobState.FAILED else None)
    transcript = TRANSCRIPT if state is JobState.SUCCEEDED else None
    return json.loads(webhook_body(webhook_payloads(), job, FINAL_EVENTS[state], NOW, transcript))


def test_formats_of_stored_jobs() -> None:
    assert set(webhook_payloads()) >= {"native", "insanely_fast", "verda"}


@pytest.mark.parametrize("webhook_format", ["native", "a front that was removed"])
@pytest.mark.parametrize("state", list(FINAL_EVENTS))
def test_native_webhooks(state: JobState, webhook_format: str) -> None:
    found = body(webhook_format, state)
    assert (found["type"], found["timestamp"]) == (f"job.{FINAL_EVENTS[state]}", NOW.isoformat())
    assert (found["data"]["id"], found["data"]["status"]) == ("call-17", state)
    assert (found["data"]["transcript"] is None) == (state is not JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            JobState.SUCCEEDED,
            {
                "output": {
                    "text": "eins zwei – drei",
                    "chunks": [{"timestamp": [0.0, 2.5], "text": "eins zwei – drei"}],
                },
                "status": "completed",
            },
        ),
        (JobState.FAILED, {"error": "the URL answered 404", "status": "error"}),
        (JobState.CANCELLED, {"error": "Task Cancelled", "status": "error"}),
    ],
)
def test_insanely_fast_webhooks(state: JobState, expected: dict[str, Any]) -> None:
    assert body("insanely_fast", state) == expected | {"task_id": "call-17"}


def test_verda_webhooks() -> None:
    assert body("verda", JobState.SUCCEEDED) == {"result": "eins zwei – drei"}
