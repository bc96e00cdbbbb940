"""Whisper's languages: their codes and English names, as its tokenizer knows them."""

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE


def language_code(value: str) -> str:
    """The ISO-639-1 code for a code or an English name, in any case.

    Raises ValueError when Whisper knows no such language.
    """
    word = value.strip().lower()
    if word in LANGUAGES:
        return word
    if word in TO_LANGUAGE_CODE:
        return str(TO_LANGUAGE_CODE[word])
    raise ValueError(
        f"unknown language {value!r}: give an ISO-639-1 code or an English name, such as 'en' or 'english'"
    )


def language_name(code: str) -> str:
    """The lower-case English name of a code, as OpenAI's verbose_json shows it."""
    return str(LANGUAGES[code])
