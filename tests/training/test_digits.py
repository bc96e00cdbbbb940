"""Sequences that are reserved for evaluation are never used for training."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.whisper_nano import speech
from training.whisper_nano.digits import LANGUAGES, WORDS, is_reserved, punctuate, random_digits

DIGITS = st.lists(st.integers(0, 9), max_size=8)


def test_known_sequences() -> None:
    assert is_reserved((2, 7, 1, 8, 2, 8, 1))
    assert not is_reserved((3, 1, 4, 1, 5))
    assert zlib.crc32(bytes([2, 6])) % 8 == 0
    assert not is_reserved((2, 6)), "two digits are too few to reserve"


@given(seed=st.integers(0, 10_000), reserved=st.booleans())
def test_random_digits_are_reserved_or_not(seed: int, reserved: bool) -> None:
    digits = random_digits(random.Random(seed), reserved=reserved)
    assert is_reserved(digits) == reserved
    assert 1 <= len(digits) <= 8


def test_share_of_reserved_sequences() -> None:
    rng = random.Random(1)
    shares = [is_reserved([rng.randrange(10) for _ in range(6)]) for _ in range(8000)]
    assert 0.11 < sum(shares) / len(shares) < 0.14


def test_training_voices_are_not_reserved() -> None:
    trained = {*speech.ESPEAK_VARIANTS, *speech.ESPEAK_CHARACTERS, *speech.FLITE_PITCH_HZ}
    assert not trained & {*speech.RESERVED_ESPEAK_VARIANTS, *speech.RESERVED_FLITE_PITCH_HZ}


@given(seed=st.integers(0, 10_000), digits=DIGITS.filter(len), language=st.sampled_from(LANGUAGES))
def test_punctuation_keeps_the_words(seed: int, digits: list[int], language: str) -> None:
    words = [WORDS[language][digit] for digit in digits]
    assert punctuate(random.Random(seed), words).replace(",", "").split() == words


@pytest.mark.parametrize("language", LANGUAGES)
def test_ten_different_words(language: str) -> None:
    assert len(set(WORDS[language])) == 10
