import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span
from serve_app.audio.windows import Window
from serve_app.pipeline.merge import DeltaBuilder, merge
from serve_app.schemas.transcript import TokenLogprob, Word
from serve_app.whisper.window_text import WindowSegment, WindowText


def text(language: str, *segments: tuple[float, float, str]) -> WindowText:
    return WindowText(
        language=language,
        text="".join(words for _, _, words in segments).strip(),
        segments=tuple(WindowSegment(start=a, end=b, text=words, tokens=(1,)) for a, b, words in segments),
        tokens=(),
        avg_logprob=-0.5,
        no_speech_prob=0.1,
        compression_ratio=1.0,
    )


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1))))
def test_times_in_the_recording(cuts: list[tuple[int, int, float, float]]) -> None:
    windows, position = [], 0
    for gap, frames, a, b in cuts:
        start, length = position + gap * 160, frames * 160
        position = start + length
        low, high = sorted((a * length / SAMPLE_RATE, b * length / SAMPLE_RATE))
        windows.append((Window(start, position), text("en", (low, high, " one"))))
    transcript = merge("transcribe", position, windows)
    for (window, window_text), segment in zip(windows, transcript.segments, strict=True):
        assert segment.start == pytest.approx(window.start / SAMPLE_RATE + window_text.segments[0].start, abs=0.01)
        assert segment.end == pytest.approx(window.start / SAMPLE_RATE + window_text.segments[0].end, abs=0.01)
        assert segment.seek * 160 == window.start
        assert segment.start <= segment.end <= transcript.duration
    assert all(a.end <= b.start for a, b in zip(transcript.segments, transcript.segments[1:], strict=False))
    assert transcript.text == " ".join(["one"] * len(windows))


SPACED = st.lists(st.lists(st.text("a \n", max_size=4).filter(str.strip), max_size=3), max_size=6)


@given(SPACED)
def test_deltas_join_to_the_text(windows: list[list[str]]) -> None:
    texts = [text("en", *((0, 1, words) for words in segments)) for segments in windows]
    builder = DeltaBuilder()
    deltas = [delta.text for one in texts if (delta := builder.next(one))]
    assert all(delta.strip() for delta in deltas)
    assert "".join(deltas) == merge("transcribe", 16_000, [(Window(0, 16_000), one) for one in texts]).text


def test_language_with_the_longest_speech() -> None:
    windows = [
        (Window(0, 16_000), text("de", (0, 1, " eins"))),
        (Window(16_000, 64_000), text("fr", (0, 3, " un"))),
        (Window(64_000, 400_000), text("en")),  # no speech here
    ]
    assert merge("transcribe", 400_000, windows).language == "fr"


def test_no_speech_is_an_empty_transcript() -> None:
    transcript = merge("transcribe", 16_000, [])
    assert (transcript.text, transcript.language, transcript.segments, transcript.duration) == ("", None, (), 1.0)


def test_words_and_tokens_are_shifted() -> None:
    word = Word(start=0.2, end=0.9, text=" one", tokens=(1,), probability=0.5)
    token = TokenLogprob(token=" one", logprob=-0.1, bytes=tuple(b" one"))
    window_text = text("en", (0.1, 1.0, " one"))
    (segment,) = window_text.segments
    window_text = window_text.model_copy(
        update={"segments": (segment.model_copy(update={"words": (word,), "logprobs": (token,)}),)}
    )
    (moved,) = merge("transcribe", 40_000, [(Window(32_000, 48_000), window_text)]).segments
    assert moved.words == (word.model_copy(update={"start": 2.2, "end": 2.5}),), "limited to the end of the recording"
    assert moved.logprobs == (token,)


def test_segments_exclude_long_silence() -> None:
    def span(start: float, end: float) -> Span:
        return Span(round(start * 16_000), round(end * 16_000))

    speech = (span(33, 34), span(36, 37), span(39.5, 40))
    window_text = text("en", (0.0, 8.5, " one two"), (9.0, 10.0, " three"))
    window = Window(30 * 16_000, 60 * 16_000, speech)
    one, two = merge("transcribe", 60 * 16_000, [(window, window_text)]).segments
    assert (one.start, one.end) == (32.6, 37.4)
    assert (two.start, two.end) == (39.0, 40.0), "half a second is not long"

    word = Word(start=0.5, end=0.7, text=" one", tokens=(1,), probability=0.5)
    with_word = window_text.model_copy(
        update={"segments": (window_text.segments[0].model_copy(update={"words": (word,)}), window_text.segments[1])}
    )
    one, _ = merge("transcribe", 60 * 16_000, [(window, with_word)]).segments
    assert one.words is not None
    assert one.start <= one.words[0].start, "the segment contains its words"
