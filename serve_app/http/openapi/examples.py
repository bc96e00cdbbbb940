"""A job, a transcript and errors, as the OpenAPI document shows them: every front renders them as its own."""

from datetime import UTC, datetime, timedelta

from serve_app.errors import (
    Conflict,
    Forbidden,
    HeadTooLarge,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestTimeout,
    Reused,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from serve_app.schemas.job import Job, JobError, JobState
from serve_app.schemas.request import JobRequest, UrlSource
from serve_app.schemas.transcript import Segment, Transcript, Turn

URL = "https://example.com/talk.mp3"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

TRANSCRIPT = Transcript(
    task="transcribe",
    language="en",
    duration=2.4,
    text="three one four",
    segments=(
        Segment(
            start=0.24,
            end=1.38,
            text=" three one four",
            seek=0,
            tokens=(401, 399, 402),
            temperature=0.0,
            avg_logprob=-0.04,
            compression_ratio=0.64,
            no_speech_prob=0.01,
        ),
    ),
    timings={"fetch": 0.105, "transcribe": 0.212},
)

DIARIZED = TRANSCRIPT.model_copy(
    update={
        "segments": (TRANSCRIPT.segments[0].model_copy(update={"speaker": "SPEAKER_00"}),),
        "turns": (Turn(start=0.24, end=1.38, speaker="SPEAKER_00"),),
    }
)

QUEUED = Job(
    id="call-17",
    state=JobState.QUEUED,
    mode="async",
    request=JobRequest(source=UrlSource(url=URL)),
    created_at=NOW,
)

SUCCEEDED = QUEUED.model_copy(
    update={
        "state": JobState.SUCCEEDED,
        "started_at": NOW + timedelta(seconds=1),
        "finished_at": NOW + timedelta(seconds=2),
        "attempts": 1,
        "progress": 1.0,
        "timings": TRANSCRIPT.timings,
    }
)

FAILED = SUCCEEDED.model_copy(
    update={
        "state": JobState.FAILED,
        "progress": 0.0,
        "timings": {},
        "error": JobError.from_exception(InvalidRequest("the URL answered 404 Not Found", "url", "not_fetched")),
    }
)

ERRORS = {
    error.status: error
    for error in (
        InvalidRequest("temperature: Input should be less than or equal to 1", "temperature", "less_than_equal"),
        Unauthorized("a valid API key is required", None, "invalid_api_key"),
        Forbidden("expires: the URL has expired; create another upload", "expires", "url_expired"),
        NotFound("there is no job 'call-18'; ended jobs are deleted after a while", "job_id", "not_found"),
        RequestTimeout("not finished within 3600 s: submit long recordings to /v1/jobs"),
        Conflict("the job is running: only a job that succeeded has a transcript", "job_id", "running"),
        TooLarge("the request body is over the limit of 536870912 bytes", None, "body_too_large"),
        UnsupportedMediaType("charset 'latin-1': send text as utf-8", "content-type"),
        Reused("there is already a job 'call-17' for another request", "id", "id_reused"),
        HeadTooLarge("the URL and headers are over the limit of 65536 bytes"),
        Overloaded("the queue is full: 10000 jobs are waiting; try again later", None, "queue_full"),
        Unavailable("the job manager is away for the moment: try again", None, "unavailable"),
    )
}
"""One of every status, as our own code raises it."""
