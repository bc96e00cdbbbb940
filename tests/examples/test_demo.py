import pytest

from examples.demo import SAMPLE, SENTENCES, compared
from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings

SAID = SENTENCES.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SAID, "All 96 words are right."),
        (SAID.upper().replace(".", " !"), "All 96 words are right."),
        (
            SAID.replace("this recording", "the recording"),
            "Words that differ: 1 of 96; the first: 'this' became 'the'.",
        ),
        (SAID.replace("First", "At first"), "Words that differ: 1 of 96; the first: '' became 'at'."),
        ("seven", "Words that differ: 96 of 96; the first: 'good morning"),
    ],
)
def test_the_demo_says_what_differs(text: str, expected: str) -> None:
    assert compared(text).startswith(expected)


def test_the_sample_is_decoded_whole() -> None:
    decoding = AudioDecoder(SAMPLE, LimitSettings(), "file")
    for _ in decoding:
        pass
    assert 30 < decoding.samples_read / 16_000 < 40
    assert not decoding.warnings
