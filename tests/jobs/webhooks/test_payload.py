import json
from typing import Any, get_args

import pytest

from serve_app.jobs.webhooks.payload import BODIES, ENDS, message
from serve_app.schemas.job import JobError, JobState
from serve_app.schemas.request import JobRequest, UrlSource, WebhookDialect
from tests.jobs.helpers import NOW, TRANSCRIPT, queued

ERROR = JobError(message="the URL answered 404", type="invalid_request_error", status=400)


def told(dialect: WebhookDialect, state: JobState) -> Any:
    """What a webhook says of a job that has ended so."""
    request = JobRequest(source=UrlSource(url="https://example.com/a.mp3"), dialect=dialect)
    job = queued(id="call-17", request=request, state=state, error=ERROR if state is JobState.FAILED else None)
    return json.loads(message(job, ENDS[state], NOW, TRANSCRIPT if state is JobState.SUCCEEDED else None))


def test_every_dialect_has_its_bodies() -> None:
    assert set(BODIES) == set(get_args(WebhookDialect))


@pytest.mark.parametrize("state", list(ENDS))
def test_native_webhooks_are_events(state: JobState) -> None:
    body = told("native", state)
    assert (body["type"], body["timestamp"]) == (f"job.{ENDS[state]}", NOW.isoformat())
    assert (body["data"]["id"], body["data"]["status"]) == ("call-17", state)
    assert (body["data"]["transcript"] is None) == (state is not JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("state", "said"),
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
def test_insanely_fast_webhooks_have_the_output_or_an_error(state: JobState, said: dict[str, Any]) -> None:
    assert told("insanely_fast", state) == said | {"task_id": "call-17"}
