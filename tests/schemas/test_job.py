from serve_app.errors import AudioError, Overloaded
from serve_app.schemas.job import JobError, JobState


def test_a_service_error_is_reported_unchanged() -> None:
    error = JobError.from_exception(AudioError("no sound in it", "url", "no_audio"))
    assert error == JobError(
        message="no sound in it", param="url", code="no_audio", type="invalid_request_error", status=400
    )
    assert JobError.from_exception(Overloaded("full")).status == 429


def test_an_unexpected_error_reveals_nothing() -> None:
    error = JobError.from_exception(RuntimeError("postgres://user:secret@db/jobs refused"))
    assert error == JobError(message="internal error", code="internal_error", type="server_error", status=500)


def test_only_queued_and_running_jobs_are_unfinished() -> None:
    assert {state for state in JobState if not state.terminal} == {JobState.QUEUED, JobState.RUNNING}
