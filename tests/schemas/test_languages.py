import pytest
from transformers.models.whisper import tokenization_whisper

from serve_app.schemas.languages import LANGUAGE_ALIASES, LANGUAGES, language_code, language_name


def test_languages_equal_whisper_tokenizer() -> None:
    assert list(LANGUAGES.items()) == list(tokenization_whisper.LANGUAGES.items())
    assert {name: code for code, name in LANGUAGES.items()} | LANGUAGE_ALIASES == tokenization_whisper.TO_LANGUAGE_CODE


@pytest.mark.parametrize(
    ("given", "code"), [("en", "en"), ("Haitian Creole", "ht"), (" Castilian ", "es"), ("YUE", "yue")]
)
def test_codes_and_names(given: str, code: str) -> None:
    assert language_code(given) == code
    assert language_code(language_name(code)) == code
