"""Many windows at the same time: priorities, cancellation, threads, changes of the batch size, closing."""

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import pytest

from serve_app.errors import Unavailable
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.window_text import WindowText
from tests.whisper.engine.submitting import DEFAULTS, Transcripts, Windows, submit_together

pytestmark = pytest.mark.slow  # decodes long queues


def test_every_window_is_encoded_once(nano: WhisperModel, windows: Windows, encoder_batches: list[int]) -> None:
    """With language detection, prompts, temperature fallback and word timestamps."""
    engine = Engine(nano, Batching(max_batch_size=5))
    options = [
        DEFAULTS,
        TranscriptionOptions(language="fr", prompt="un"),
        TranscriptionOptions(logprob_threshold=0.0, timestamps="word"),
    ]
    pairs = [(window, option) for window in windows.values() for option in options]
    futures = submit_together(engine, [window for window, _ in pairs], [option for _, option in pairs])
    assert not wait(futures, 60).not_done
    assert sum(encoder_batches) == len(futures)
    stats = engine.stats()
    assert (stats.windows, stats.encoded, stats.failed, stats.waiting) == (12, 12, 0, 0)
    assert stats.attempts == 8 + 4 * 6, "the third option is decoded at every temperature"
    assert stats.tokens == sum(len(future.result().tokens) for future in futures)
    assert 1 < stats.mean_batch_size <= 5
    engine.close()


def test_a_short_job_does_not_wait_behind_a_long_one(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano, Batching(max_batch_size=2))
    finished: list[str] = []
    window = windows["en.mp3"]

    def submit(job: str) -> "Future[WindowText]":
        future = engine.submit(window, TranscriptionOptions(language="en"), job)
        future.add_done_callback(lambda _: finished.append(job))
        return future

    with engine._condition:
        futures = [submit("long") for _ in range(6)] + [submit("short")]
    assert not wait(futures, 60).not_done
    assert "short" in finished[:2]
    engine.close()


def test_bulk_encoding_leaves_time_to_interactive_windows(nano: WhisperModel, windows: Windows) -> None:
    """While an interactive window is decoded, encoding other windows pauses as long as it takes."""
    engine = Engine(nano, Batching(max_batch_size=8))
    window = windows["en.mp3"]
    encodings: list[tuple[bool, float, float]] = []  # during_interactive a clip, began, ended
    start_decoding = engine._start_decoding

    def noted(encoding: Any) -> None:
        during_interactive = engine._scheduler.is_serving_interactive and not any(
            engine._requests[work].interactive for work in encoding.tasks
        )
        start_decoding(encoding)
        encodings.append((during_interactive, encoding.started, time.monotonic()))

    engine._start_decoding = noted  # type: ignore[method-assign]
    bulk = [engine.submit(window, DEFAULTS, "bulk", interactive=False) for _ in range(40)]
    long = TranscriptionOptions(
        suppress_tokens=(nano.card.tokens.end,),
        max_new_tokens=400,
        timestamps="none",
        temperature=1.0,
    )
    engine.submit(window, long, "clip").result(60)
    assert not wait(bulk, 60).not_done
    engine.close()
    gaps = [(now[1] - before[2], before[2] - before[1]) for before, now in pairwise(encodings) if before[0] and now[0]]
    assert gaps, "some bulk windows were encoded meanwhile"
    assert all(gap >= 0.9 * took for gap, took in gaps)


def test_cancelling_a_queued_window(engine: Engine, windows: Windows, encoder_batches: list[int]) -> None:
    with engine._condition:
        futures = submit_together(engine, [windows["en.mp3"]] * 3, [DEFAULTS] * 3)
        assert futures[1].cancel()
        assert engine.stats().waiting == 2
        assert wait(futures[1:2], 1).done, "waiters are notified"
    assert not wait(futures, 60).not_done
    assert sum(encoder_batches) == 2
    with pytest.raises(CancelledError):
        futures[1].result()


def test_cancelling_a_window_that_is_being_decoded_frees_its_rows(engine: Engine, windows: Windows) -> None:
    special = engine._model.card.tokens
    endless = TranscriptionOptions(
        suppress_tokens=(special.end,), timestamps="none", temperature=1.0, best_of=12, logprob_threshold=None
    )
    futures = submit_together(engine, [windows["en.mp3"]] * 3, [endless, endless, DEFAULTS])
    while engine.stats().steps < 3:
        time.sleep(0.001)
    assert futures[0].cancel()
    assert wait(futures[:1], 10).done
    assert futures[1].cancel()
    assert futures[2].result(10).text == "three one four one five nine"
    assert engine.stats().windows == 1
    assert engine._scheduler.rows_in_use == 0
    assert not engine._requests


def test_the_number_of_rows_can_be_changed_while_running(engine: Engine, windows: Windows) -> None:
    first = submit_together(engine, [windows["en.mp3"]] * 8, [DEFAULTS] * 8)
    engine.reconfigure(Batching(max_batch_size=2))
    second = submit_together(engine, [windows["en.mp3"]] * 8, [DEFAULTS] * 8)
    assert {future.result(60).text for future in [*first, *second]} == {"three one four one five nine"}
    assert engine._decoder.rows == 2


def test_windows_from_many_threads(nano: WhisperModel, windows: Windows, transcripts: Transcripts) -> None:
    engine = Engine(nano, Batching(max_batch_size=4))
    names = list(transcripts) * 4
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda name: engine.submit(windows[name], DEFAULTS, name).result(120).text, names))
    assert texts == [transcripts[name][1] for name in names]
    engine.close()


def test_close_cancels_unfinished_windows_and_ends_the_thread(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano)
    with engine._condition:
        future = engine.submit(windows["en.mp3"], DEFAULTS, "job")
        engine._closed = True  # before the thread sees the window
    engine.close()
    engine.close()
    assert not wait([future], 1).not_done
    assert future.cancelled()
    assert not any(thread is engine._thread for thread in threading.enumerate())
    with pytest.raises(Unavailable, match="closed"):
        engine.submit(windows["en.mp3"], DEFAULTS, "job")
