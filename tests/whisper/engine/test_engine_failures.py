"""Windows, steps and devices that fail, and the engine's health."""

import threading
import time
from typing import Any

import pytest
import torch

from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.engine import MAX_FAILURES, Engine
from serve_app.whisper.model.whisper_model import WhisperModel
from tests.whisper.engine.submitting import DEFAULTS, INVALID, Transcripts, Windows, submit_together

pytestmark = pytest.mark.slow  # waits for watchdogs


def test_an_invalid_window_fails_alone(engine: Engine, windows: Windows) -> None:
    futures = submit_together(engine, [windows["en.mp3"]] * 3, [DEFAULTS, INVALID, DEFAULTS])
    with pytest.raises(KeyError, match="sing"):
        futures[1].result(60)
    assert [futures[index].result(60).text for index in (0, 2)] == ["three one four one five nine"] * 2
    stats = engine.stats()
    assert (stats.windows, stats.failed) == (2, 1)
    assert engine.submit(windows["es.wav"], DEFAULTS, "next").result(60).language == "es"


def test_after_a_failed_step_each_window_is_decoded_alone(
    engine: Engine, windows: Windows, transcripts: Transcripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device fails once, in the middle: all windows that are being decoded are decoded again, one by one."""
    step, calls = engine._decoder.step, iter(range(100))

    def failing() -> Any:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("out of memory")
        return step()

    monkeypatch.setattr(engine._decoder, "step", failing)
    futures = submit_together(engine, list(windows.values()), [TranscriptionOptions(timestamps="word")] * len(windows))
    assert [future.result(60).text for future in futures] == [words for _, words in transcripts.values()]
    assert engine.stats().failed == 0
    assert engine._scheduler.rows_in_use == 0


def test_an_error_does_not_reference_tensors(engine: Engine, windows: Windows) -> None:
    error = engine.submit(windows["en.mp3"], INVALID, "bad").exception(60)
    assert error is not None
    assert error.__traceback__ is None


def test_a_window_whose_alignment_fails_fails_alone(
    engine: Engine, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are already free, and the thread goes on."""

    def failing() -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(engine._aligner_stage, "run", failing)
    future = engine.submit(windows["en.mp3"], TranscriptionOptions(timestamps="word"), "job")
    with pytest.raises(torch.OutOfMemoryError):
        future.result(60)
    assert engine.submit(windows["en.mp3"], DEFAULTS, "next").result(60).text == "three one four one five nine"
    engine.check_health()


def test_an_engine_is_unhealthy_when_every_window_fails(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano)
    for _ in range(MAX_FAILURES):
        engine.check_health()
        assert engine.submit(windows["en.mp3"], INVALID, "bad").exception(60)
    with pytest.raises(RuntimeError, match="all failed"):
        engine.check_health()
    engine.submit(windows["en.mp3"], DEFAULTS, "good").result(60)
    engine.check_health()
    engine.close()
    with pytest.raises(RuntimeError, match="has ended"):
        engine.check_health()


def test_an_engine_is_unhealthy_when_its_device_hangs(
    nano: WhisperModel, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, go_on = threading.Event(), threading.Event()
    encode = nano.encode

    def hang(features: torch.Tensor) -> torch.Tensor:
        hanging.set()
        go_on.wait(60)
        return encode(features)

    engine = Engine(nano, watchdog_s=0.2)
    engine.check_health()
    monkeypatch.setattr(nano, "encode", hang)
    future = engine.submit(windows["en.mp3"], TranscriptionOptions(), "job")
    assert hanging.wait(60)
    time.sleep(0.3)
    with pytest.raises(RuntimeError, match="hangs"):
        engine.check_health()
    go_on.set()
    assert future.result().text
    time.sleep(0.3)  # idle
    engine.check_health()
    engine.close()
