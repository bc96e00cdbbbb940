import pickle

import pytest
from pydantic import ValidationError

from serve_app.errors import AudioError, ServiceError
from serve_app.schemas.request import JobRequest, TranscriptionOptions


@pytest.mark.parametrize(
    ("given", "code"), [("en", "en"), ("EN", "en"), ("German", "de"), (" spanish ", "es"), (None, None)]
)
def test_a_language_is_a_code_or_a_name(given: str | None, code: str | None) -> None:
    assert TranscriptionOptions(language=given).language == code


@pytest.mark.parametrize("given", ["xx", "", "english please"])
def test_an_unknown_language_is_rejected(given: str) -> None:
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
def test_temperatures_equal_openai_whispers(options: dict[str, float | None], temperatures: tuple[float, ...]) -> None:
    assert TranscriptionOptions(**options).temperatures == temperatures


def test_the_number_of_temperatures_is_limited() -> None:
    assert len(TranscriptionOptions(temperature_increment_on_fallback=0.01).temperatures) == 101
    with pytest.raises(ValidationError, match="temperature_increment_on_fallback"):
        TranscriptionOptions(temperature_increment_on_fallback=1e-9)


def test_options_from_a_fronts_body() -> None:
    class Body(TranscriptionOptions):
        audio: str

    assert TranscriptionOptions.from_body(Body(audio="a", language="german")) == TranscriptionOptions(language="de")


@pytest.mark.parametrize(("given", "tokens"), [("-1", (-1,)), ("3, 4", (3, 4)), ("", ()), ([5], (5,))])
def test_suppress_tokens_are_a_list_or_a_comma_separated_string(given: object, tokens: tuple[int, ...]) -> None:
    assert TranscriptionOptions.model_validate({"suppress_tokens": given}).suppress_tokens == tokens


@pytest.mark.parametrize("given", ["a", "-2", [-2], "1;2"])
def test_invalid_suppress_tokens_are_rejected(given: object) -> None:
    with pytest.raises(ValidationError, match="suppress_tokens"):
        TranscriptionOptions.model_validate({"suppress_tokens": given})


CLIP = {"reference": "aaaa"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"num_speakers": 0}, "diarization.num_speakers"),
        ({"num_speakers": 101}, "diarization.num_speakers"),
        ({"num_speakers": 2, "min_speakers": 2}, "diarization.min_speakers"),
        ({"num_speakers": 2, "max_speakers": 2}, "diarization.max_speakers"),
        ({"min_speakers": 3, "max_speakers": 2}, "diarization.max_speakers"),
        ({"channels": "left"}, "diarization.channels"),
        ({"known_speakers": [{"name": "Ann"}]}, "diarization.known_speakers.0.reference"),
        ({"known_speakers": [{"name": "Ann", "reference": ""}]}, "diarization.known_speakers.0.reference"),
        ({"known_speakers": [{"name": "Ann"} | CLIP] * 2}, "diarization.known_speakers"),
        ({"known_speakers": [{"name": str(number)} | CLIP for number in range(5)]}, "diarization.known_speakers"),
        *(
            ({"known_speakers": [{"name": name} | CLIP]}, "diarization.known_speakers.0.name")
            for name in ("", " Ann", "Ann\nBob", "Ann\u2028", "\x1b", "SPEAKER_00", "SPEAKER_7", "a" * 101)
        ),
    ],
)
def test_invalid_diarization_options_are_rejected_with_their_field(given: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TranscriptionOptions.model_validate({"diarization": given})
    assert ".".join(map(str, refused.value.errors()[0]["loc"])) == field


def test_valid_numbers_of_speakers() -> None:
    for given in (
        {},
        {"num_speakers": 2},
        {"min_speakers": 2},
        {"max_speakers": 2},
        {"min_speakers": 2, "max_speakers": 2},
    ):
        assert TranscriptionOptions.model_validate({"diarization": given}).diarization is not None


def test_diarization_requires_timestamps() -> None:
    with pytest.raises(ValidationError, match="timestamps must be 'segment' or 'word'"):
        TranscriptionOptions.model_validate({"timestamps": "none", "diarization": {}})


def test_options_for_decoding_have_words_and_no_diarization() -> None:
    plain = TranscriptionOptions(language="en")
    assert plain.for_decoding == plain
    options = TranscriptionOptions.model_validate({"language": "en", "diarization": {}})
    assert options.for_decoding == TranscriptionOptions(language="en", timestamps="word")


def test_reference_clips_are_stored_but_redacted() -> None:
    options = TranscriptionOptions.model_validate({"diarization": {"known_speakers": [{"name": "Ann"} | CLIP]}})
    assert options.diarization is not None
    assert TranscriptionOptions.model_validate_json(options.model_dump_json()) == options
    redacted = options.redacted.model_dump(mode="json")
    assert redacted["diarization"]["known_speakers"] == [{"name": "Ann"}]
    assert redacted | {"diarization": None} == TranscriptionOptions().model_dump(mode="json")


def test_the_webhook_format_is_stored_under_its_old_name() -> None:
    old_request = {
        "source": {"kind": "url", "url": "https://example.com/a.mp3"},
        "webhook": {"url": "https://example.com/h"},
        "dialect": "insanely_fast",
    }
    request = JobRequest.model_validate(old_request)
    assert request.webhook_format == "insanely_fast"
    assert JobRequest.model_validate_json(request.model_dump_json()) == request
    # As the service computed it when the field was called so: a job that is submitted again is the same.
    assert request.fingerprint == "a746341bf89f493966d7489b1ce343d2b2ab55ee6162cb99ec06f63657028634"
