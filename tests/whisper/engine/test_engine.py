"""The texts of the engine, by all options of a window."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app.errors import InvalidRequest
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from tests.whisper.engine.submitting import DEFAULTS, Transcripts, Windows, submit_together


def test_speech_in_four_languages(engine: Engine, windows: Windows, transcripts: Transcripts) -> None:
    futures = {name: engine.submit(window, DEFAULTS, name) for name, window in windows.items()}
    for name, (language, words) in transcripts.items():
        result = futures[name].result(60)
        assert (result.language, result.text) == (language, words)
        assert result.temperature == 0
        assert -1 < result.avg_logprob < 0
        assert result.no_speech_prob < 0.1
        assert 0 < result.compression_ratio < 2
        assert [segment.text for segment in result.segments] == [f" {words}"]
        assert 0.3 < result.segments[0].start < 1 < 2 < result.segments[0].end <= len(windows[name]) / 16_000


def test_silence_has_no_text(engine: Engine) -> None:
    result = engine.submit(np.zeros(48_000, np.int16), DEFAULTS, "job").result(60)
    assert (result.text, result.segments, result.compression_ratio) == ("", (), 0)
    assert result.no_speech_prob > 0.9


@pytest.mark.slow
def test_windows_with_different_options_in_one_batch(engine: Engine, windows: Windows) -> None:
    options = [
        TranscriptionOptions(language="de"),
        TranscriptionOptions(task="translate"),
        TranscriptionOptions(task="translate", language="de", beam_size=3, patience=2.0, length_penalty=0.5),
        TranscriptionOptions(prompt="   "),
        TranscriptionOptions(timestamps="none"),
        TranscriptionOptions(temperature=0.4, best_of=3),
        TranscriptionOptions(beam_size=5),
    ]
    futures = submit_together(engine, [windows["de.opus"]] * len(options), options)
    results = [future.result(60) for future in futures]
    german, english = "zwei sieben eins acht zwei acht", "two seven one eight two eight"
    assert [result.text for result in results] == [german, english, english, german, german, german, german]
    assert {result.language for result in results} == {"de"}
    assert results[5].temperature == 0.4
    assert [len(result.segments) for result in results] == [1] * len(options)
    plain = results[4].segments[0]
    assert (plain.start, plain.end) == (0, len(windows["de.opus"]) / 16_000)
    assert engine.stats().mean_batch_size > 5


def test_temperature_fallback_of_a_window_that_fails(engine: Engine, windows: Windows) -> None:
    picky = TranscriptionOptions(logprob_threshold=-1e-9, no_speech_threshold=None)
    good, bad = submit_together(engine, [windows["en.mp3"]] * 2, [DEFAULTS, picky])
    assert good.result(60).temperature == 0
    assert bad.result(60).text == "three one four one five nine", "the best attempt is returned"
    assert engine.stats().attempts == 1 + 6
    again = engine.submit(
        windows["en.mp3"], picky.model_copy(update={"temperature_increment_on_fallback": None}), "job"
    )
    assert again.result(60).temperature == 0
    assert engine.stats().attempts == 8


def test_a_window_above_the_no_speech_threshold_has_no_text(engine: Engine, windows: Windows) -> None:
    options = TranscriptionOptions(no_speech_threshold=0.0, logprob_threshold=-1e-9)
    result = engine.submit(windows["en.mp3"], options, "job").result(60)
    assert (result.text, result.segments, result.tokens) == ("", (), ())


@pytest.mark.slow
def test_a_repetition_loop_is_trimmed(engine: Engine, windows: Windows) -> None:
    """A model that may generate nothing but one word repeats it for ever."""
    special = engine._model.card.tokens
    one = engine._model.tokenize("one")[0]
    others = tuple(token for token in range(special.no_timestamps) if token != one)
    options = TranscriptionOptions(suppress_tokens=others, timestamps="none", compression_ratio_threshold=None)
    result = engine.submit(windows["en.mp3"], options, "job").result(60)
    assert result.text == "one"


def test_log_probabilities_of_tokens(engine: Engine, windows: Windows) -> None:
    result = engine.submit(windows["fr.flac"], TranscriptionOptions(logprobs=True), "job").result(60)
    (segment,) = result.segments
    assert segment.logprobs is not None
    assert "".join(token.token for token in segment.logprobs) == segment.text
    assert b"".join(bytes(token.bytes) for token in segment.logprobs).decode() == segment.text
    assert all(-5 < token.logprob <= 0 for token in segment.logprobs)
    assert engine.submit(windows["fr.flac"], DEFAULTS, "job").result(60).segments[0].logprobs is None


def test_word_timestamps(engine: Engine, windows: Windows, transcripts: Transcripts) -> None:
    options = TranscriptionOptions(timestamps="word")
    futures = submit_together(engine, list(windows.values()), [options] * len(windows))
    for (_, text), future in zip(transcripts.values(), futures, strict=True):
        (segment,) = future.result(60).segments
        assert segment.words is not None
        assert [word.text.strip() for word in segment.words] == text.split()
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert segment.start <= times[0] < times[-1] <= segment.end
        assert all(0.05 < word.end - word.start < 1 for word in segment.words)
        assert all(0 < word.probability <= 1 for word in segment.words)


def test_word_timestamps_of_a_translation(engine: Engine, windows: Windows) -> None:
    options = TranscriptionOptions(timestamps="word", task="translate", language="de")
    (segment,) = engine.submit(windows["de.opus"], options, "job").result(60).segments
    assert segment.words is not None
    assert [word.text for word in segment.words] == [" two", " seven", " one", " eight", " two", " eight"]


def test_previous_text_is_part_of_the_prompt(engine: Engine, windows: Windows) -> None:
    """The words are the same; their probabilities are not."""
    tokens = engine._model.tokenize("three one four one five nine")
    before, alone = (engine.submit(windows["es.wav"], DEFAULTS, "job", previous=p).result(60) for p in (tokens, ()))
    assert before.text == alone.text
    assert before.avg_logprob != alone.avg_logprob


def test_too_many_hotwords_are_rejected(engine: Engine, windows: Windows) -> None:
    with pytest.raises(InvalidRequest, match="at most 223 tokens long, not 300") as caught:
        engine.submit(windows["en.mp3"], TranscriptionOptions(hotwords="one " * 300), "job")
    assert caught.value.param == "hotwords"


@pytest.mark.parametrize(("size", "rows"), [(16, 5), (3, 3)])
def test_the_default_beam_size_is_the_models(
    nano: WhisperModel, windows: Windows, monkeypatch: pytest.MonkeyPatch, size: int, rows: int
) -> None:
    """It is limited to the rows of the engine."""
    monkeypatch.setattr(nano, "card", replace(nano.card, beam_size=5))
    engine = Engine(nano, Batching(max_batch_size=size))
    engine.submit(windows["en.mp3"], DEFAULTS, "job").result(60)
    stats = engine.stats()
    assert stats.rows == rows * stats.steps
    engine.submit(windows["en.mp3"], TranscriptionOptions(beam_size=1), "job").result(60)
    assert engine.stats().rows - stats.rows == engine.stats().steps - stats.steps
    engine.close()


@pytest.mark.parametrize("name", ["beam_size", "best_of"])
def test_more_beams_or_samples_than_rows_are_rejected(nano: WhisperModel, windows: Windows, name: str) -> None:
    engine = Engine(nano, Batching(max_batch_size=4))
    with pytest.raises(InvalidRequest, match=f"{name} must be at most 4") as caught:
        engine.submit(windows["en.mp3"], TranscriptionOptions(**{name: 5}), "job")
    assert caught.value.param == name
    engine.close()


@pytest.mark.parametrize("options", [{"language": "ja"}, {"language": "german", "task": "translate"}])
def test_options_that_an_english_only_model_does_not_support(
    english_only: WhisperModel, options: dict[str, Any]
) -> None:
    engine = Engine(english_only)
    with pytest.raises(InvalidRequest, match="does not support"):
        engine.submit(np.zeros(16_000, np.int16), TranscriptionOptions(**options), "job")
    engine.close()


@pytest.mark.parametrize(
    "pcm",
    [np.zeros(16, np.float32), np.zeros((2, 16), np.int16), np.zeros(0, np.int16), np.zeros(480_001, np.int16)],
    ids=["float", "stereo", "empty", "too long"],
)
def test_pcm_of_the_wrong_format_is_rejected(engine: Engine, pcm: Any) -> None:
    with pytest.raises(ValueError, match="mono int16"):
        engine.submit(pcm, DEFAULTS, "job")


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_text_ends_when_all_tokens_are_suppressed(engine: Engine, windows: Windows, beam_size: int) -> None:
    everything = tuple(range(engine._model.card.tokens.first_timestamp))
    options = TranscriptionOptions(suppress_tokens=everything, beam_size=beam_size)
    result = engine.submit(windows["en.mp3"], options, "job").result(60)
    assert result.text == ""
    assert np.isfinite(result.avg_logprob)
