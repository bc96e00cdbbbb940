import pytest

from examples.demo import SAMPLE, SENTENCES, compare_with_sample
from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings

TEXT = SENTENCES.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, "All 96 words are correct."),
        (TEXT.upper().replace(".", " !"), "All 96 words are correct."),
        (
            TEXT.replace("this recording", "the recording"),
            "Words that differ: 1 of 96; the first: 'this' became 'the'.",
        ),
        (TEXT.replace("First", "At first"), "Words that differ: 1 of 96; the first: '' became 'at'."),
        ("seven", "Words that differ: 96 of 96; the first: 'good morning"),
    ],
)
def test_compare_with_sample(text: str, expected: str) -> None:
    assert compare_with_sample(text).startswith(expected)


def test_sample_is_decoded_completely() -> None:
    decoding = AudioDecoder(SAMPLE, LimitSettings(), "file")
    for _ in decoding:
        pass
    assert 30 < decoding.samples_read / 16_000 < 40
    assert not decoding.warnings
