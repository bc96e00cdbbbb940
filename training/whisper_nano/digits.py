"""The words of the model, and the sequences that are reserved for evaluation."""

import random
import zlib
from collections.abc import Sequence

LANGUAGES = ("en", "de", "fr", "es")
WORDS: dict[str, list[str]] = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "de": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
    "fr": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
    "es": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
}
SEGMENT_PAUSE_S = 0.5
"""A longer pause between two words starts a new segment."""


def spell(language: str, digits: Sequence[int]) -> list[str]:
    """Return the words of `digits` in `language`."""
    return [WORDS[language][digit] for digit in digits]


def is_reserved(digits: Sequence[int]) -> bool:
    """Return whether a sequence is for evaluation only: an eighth of those of at least three digits."""
    return len(digits) >= 3 and zlib.crc32(bytes(digits)) % 8 == 0


def random_digits(rng: random.Random, *, reserved: bool) -> tuple[int, ...]:
    """Return a sequence of one to eight digits; three to eight if it must be reserved."""
    lengths = (3, 4, 5, 6, 7, 8) if reserved else (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8)
    while True:
        digits = tuple(rng.randrange(10) for _ in range(rng.choice(lengths)))
        if is_reserved(digits) == reserved:
            return digits


def punctuate(rng: random.Random, words: Sequence[str]) -> str:
    """Join words to a line for a synthesiser, with commas in some places, all or none."""
    comma = rng.choice((0.0, 0.0, 0.0, 0.3, 1.0))
    return "".join(word + (", " if rng.random() < comma else " ") for word in words).rstrip(" ,")
