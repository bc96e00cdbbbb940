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


@pytest.mark.parametrize(
    ("options", "temperatures"),
    [
        ({}, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ({"temperature": 0.5}, (0.5, 0.7, 0.9)),
        ({"temperature": 1}, (1.0,)),
        ({"temperature_increment_on_fallback": 0.3}, (0.0, 0.3, 0.6, 0.9)),
        ({"temperature_increment_on_fallback": None}, (0.0,)),
    ],
)
def test_the_ladder_is_whispers(options: dict[str, float | None], temperatures: tuple[float, ...]) -> None:
    assert TranscriptionOptions(**options).temperatures == temperatures


def test_a_ladder_has_an_end() -> None:
    assert len(TranscriptionOptions(temperature_increment_on_fallback=0.01).temperatures) == 101
    with pytest.raises(ValidationError, match="temperature_increment_on_fallback"):
        TranscriptionOptions(temperature_increment_on_fallback=1e-9)


def test_a_fronts_body_has_the_options_and_more() -> None:
    class Body(TranscriptionOptions):
        audio: str

    assert TranscriptionOptions.of(Body(audio="a", language="german")) == TranscriptionOptions(language="de")


@pytest.mark.parametrize(("given", "tokens"), [("-1", (-1,)), ("3, 4", (3, 4)), ("", ()), ([5], (5,))])
def test_tokens_are_a_list_or_text_with_commas(given: object, tokens: tuple[int, ...]) -> None:
    assert TranscriptionOptions.model_validate({"suppress_tokens": given}).suppress_tokens == tokens


@pytest.mark.parametrize("given", ["a", "-2", [-2], "1;2"])
def test_what_is_no_token_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="suppress_tokens"):
        TranscriptionOptions.model_validate({"suppress_tokens": given})
