import pickle

import pytest
from pydantic import ValidationError

from serve_app.errors import AudioError, ServiceError
from serve_app.options import TranscriptionOptions


@pytest.mark.parametrize(
    ("given", "code"), [("en", "en"), ("EN", "en"), ("German", "de"), (" spanish ", "es"), (None, None)]
)
def test_a_language_is_a_code_or_a_name(given: str | None, code: str | None) -> None:
    assert TranscriptionOptions(language=given).language == code


@pytest.mark.parametrize("given", ["xx", "", "english please"])
def test_another_language_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="unknown language"):
        TranscriptionOptions(language=given)


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(AudioError("no sound", "file", "no_audio")))
    assert isinstance(error, ServiceError)
    assert (error.message, error.param, error.code, error.status) == ("no sound", "file", "no_audio", 400)
