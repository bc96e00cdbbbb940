"""The engine's thread: many jobs in, their texts out, whatever goes wrong on the way."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.errors import InvalidRequest, Unavailable
from serve_app.options import TranscriptionOptions
from serve_app.whisper.engine import MAX_FAILURES, Engine
from serve_app.whisper.model import WhisperModel
from serve_app.whisper.scheduler import Batching
from serve_app.whisper.text import WindowText

Windows = dict[str, NDArray[np.int16]]
Said = dict[str, tuple[str, str]]
DETECT = TranscriptionOptions()
HELD = Batching(batch_wait_timeout_s=3600)  # an engine that waits until told otherwise
BROKEN: TranscriptionOptions = TranscriptionOptions.model_construct(  # what validation would never let through
    model=None, task="sing", language="en", prompt=None
)


@pytest.fixture
def held(nano: WhisperModel) -> Iterator[Engine]:
    """An idle engine that leaves windows in its queue until it is reconfigured."""
    engine = Engine(nano, HELD)
    yield engine
    engine.close()


@pytest.fixture
def encoded(nano: WhisperModel) -> Iterator[list[int]]:
    """How many windows each call of the encoder got."""
    calls: list[int] = []
    hook = nano._network.model.encoder.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    yield calls
    hook.remove()


def release(engine: Engine, size: int = 16) -> None:
    engine.reconfigure(Batching(max_batch_size=size, batch_wait_timeout_s=0))


def test_speech_in_four_languages(engine: Engine, windows: Windows, said: Said) -> None:
    futures = {name: engine.submit(window, DETECT, name) for name, window in windows.items()}
    for name, (language, words) in said.items():
        result = futures[name].result(60)
        assert (result.language, result.text) == (language, words)
        assert result.temperature == 0
        assert -1 < result.avg_logprob < 0
        assert result.no_speech_prob < 0.1
        assert 0 < result.compression_ratio < 2
        assert [segment.text for segment in result.segments] == [f" {words}"]
        assert 0.3 < result.segments[0].start < 1 < 2 < result.segments[0].end <= len(windows[name]) / 16_000


def test_silence_has_no_text(engine: Engine) -> None:
    result = engine.submit(np.zeros(48_000, np.int16), DETECT, "job").result(60)
    assert (result.text, result.segments, result.compression_ratio) == ("", (), 0)
    assert result.no_speech_prob > 0.9


def test_options_of_each_window_are_its_own(held: Engine, windows: Windows) -> None:
    options = [
        TranscriptionOptions(language="de"),
        TranscriptionOptions(task="translate"),
        TranscriptionOptions(task="translate", language="de", prompt="one two"),
        TranscriptionOptions(prompt="   "),
    ]
    futures = [held.submit(windows["de.opus"], option, f"job{index}") for index, option in enumerate(options)]
    release(held)
    results = [future.result(60) for future in futures]
    assert held.stats().batches == 1
    german = "zwei sieben eins acht zwei acht"
    assert [result.text for result in results[:2]] == [german, "two seven one eight two eight"]
    assert results[3].text == german
    assert {result.language for result in results} == {"de"}


def test_every_window_is_encoded_once(held: Engine, windows: Windows, encoded: list[int]) -> None:
    """Languages detected, prompts and refills of the batch included."""
    options = [DETECT, TranscriptionOptions(language="fr", prompt="un"), TranscriptionOptions(task="translate")]
    futures = [held.submit(window, option, "job") for window in windows.values() for option in options]
    release(held, 5)
    assert not wait(futures, 60).not_done
    assert encoded == [5, 5, 2]
    stats = held.stats()
    assert (stats.windows, stats.batches, stats.encoded, stats.failed, stats.waiting) == (12, 3, 12, 0, 0)
    assert stats.mean_batch_size == 4
    assert stats.tokens == sum(len(future.result().tokens) for future in futures)
    assert stats.encode_s > 0 < stats.decode_s


def test_a_short_job_does_not_wait_behind_a_long_one(held: Engine, windows: Windows) -> None:
    finished: list[str] = []
    window = windows["en.mp3"]

    def submit(job: str) -> "Future[WindowText]":
        future = held.submit(window, TranscriptionOptions(language="en"), job)
        future.add_done_callback(lambda _: finished.append(job))
        return future

    futures = [submit("long") for _ in range(6)] + [submit("short")]
    release(held, 2)
    assert not wait(futures, 60).not_done
    assert "short" in finished[:2]


def test_cancelling_frees_the_place_in_the_queue(held: Engine, windows: Windows, encoded: list[int]) -> None:
    futures = [held.submit(windows["en.mp3"], DETECT, "job") for _ in range(3)]
    assert futures[1].cancel()
    assert held.stats().waiting == 2
    assert wait(futures[1:2], 1).done, "those who wait for it are told"
    release(held)
    assert not wait(futures, 60).not_done
    assert encoded == [2]
    with pytest.raises(CancelledError):
        futures[1].result()


def test_a_broken_window_fails_alone(held: Engine, windows: Windows) -> None:
    good = [held.submit(windows["en.mp3"], DETECT, "good") for _ in range(2)]
    bad = held.submit(windows["en.mp3"], BROKEN, "bad")
    release(held)
    with pytest.raises(KeyError, match="sing"):
        bad.result(60)
    assert [future.result(60).text for future in good] == ["three one four one five nine"] * 2
    stats = held.stats()
    assert (stats.windows, stats.failed) == (2, 1)
    assert held.submit(windows["es.wav"], DETECT, "next").result(60).language == "es"


def test_a_failure_does_not_hold_on_to_its_tensors(engine: Engine, windows: Windows) -> None:
    error = engine.submit(windows["en.mp3"], BROKEN, "bad").exception(60)
    assert error is not None
    assert error.__traceback__ is None


def test_an_engine_serves_many_threads(nano: WhisperModel, windows: Windows, said: Said) -> None:
    engine = Engine(nano, Batching(max_batch_size=4))
    names = list(said) * 4
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda name: engine.submit(windows[name], DETECT, name).result(120).text, names))
    assert texts == [said[name][1] for name in names]
    engine.close()


@pytest.mark.parametrize("options", [{"language": "ja"}, {"language": "german", "task": "translate"}])
def test_an_english_only_engine_names_what_it_cannot_do(english_only: WhisperModel, options: dict[str, Any]) -> None:
    engine = Engine(english_only)
    with pytest.raises(InvalidRequest, match="does not know"):
        engine.submit(np.zeros(16_000, np.int16), TranscriptionOptions(**options), "job")
    engine.close()


@pytest.mark.parametrize(
    "pcm",
    [np.zeros(16, np.float32), np.zeros((2, 16), np.int16), np.zeros(0, np.int16), np.zeros(480_001, np.int16)],
    ids=["float", "stereo", "empty", "too long"],
)
def test_sound_of_the_wrong_kind_is_refused(engine: Engine, pcm: Any) -> None:
    with pytest.raises(ValueError, match="mono int16"):
        engine.submit(pcm, DETECT, "job")


def test_closing_cancels_what_waits_and_ends_the_thread(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano, HELD)
    future = engine.submit(windows["en.mp3"], DETECT, "job")
    engine.close()
    engine.close()
    assert not wait([future], 1).not_done
    assert future.cancelled()
    assert not any(thread is engine._thread for thread in threading.enumerate())
    with pytest.raises(Unavailable, match="closed"):
        engine.submit(windows["en.mp3"], DETECT, "job")


def test_an_engine_whose_every_window_fails_calls_itself_ill(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano)
    for _ in range(MAX_FAILURES):
        engine.check()
        assert engine.submit(windows["en.mp3"], BROKEN, "bad").exception(60)
    with pytest.raises(RuntimeError, match="all failed"):
        engine.check()
    engine.submit(windows["en.mp3"], DETECT, "good").result(60)
    engine.check()
    engine.close()
    with pytest.raises(RuntimeError, match="has ended"):
        engine.check()
