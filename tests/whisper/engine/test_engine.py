"""The engine's thread: many jobs in, their texts out, whatever goes wrong on the way."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serve_app.errors import InvalidRequest, Unavailable
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.engine import MAX_FAILURES, Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.window_text import WindowText

Windows = dict[str, NDArray[np.int16]]
Said = dict[str, tuple[str, str]]
DETECT = TranscriptionOptions()
BROKEN: TranscriptionOptions = TranscriptionOptions.model_construct(  # what validation would never let through
    **(DETECT.model_dump() | {"task": "sing", "language": "en"})
)


@pytest.fixture
def engine(nano: WhisperModel) -> Iterator[Engine]:
    engine = Engine(nano)
    yield engine
    engine.close()


def together(
    engine: Engine, windows: Sequence[NDArray[np.int16]], options: Sequence[TranscriptionOptions], job: str = "job"
) -> "list[Future[WindowText]]":
    """Submit windows before the engine sees the first: its thread needs the lock."""
    with engine._changed:
        return [engine.submit(window, each, job) for window, each in zip(windows, options, strict=True)]


@pytest.fixture
def encoded(nano: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows each call of the encoder got."""
    calls: list[int] = []
    encode = nano.encode

    def counted(features: torch.Tensor) -> torch.Tensor:
        calls.append(len(features))
        return encode(features)

    monkeypatch.setattr(nano, "encode", counted)
    return calls


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


def test_options_of_each_window_are_its_own(engine: Engine, windows: Windows) -> None:
    options = [
        TranscriptionOptions(language="de"),
        TranscriptionOptions(task="translate"),
        TranscriptionOptions(task="translate", language="de", beam_size=3, patience=2.0, length_penalty=0.5),
        TranscriptionOptions(prompt="   "),
        TranscriptionOptions(timestamps="none"),
        TranscriptionOptions(temperature=0.4, best_of=3),
        TranscriptionOptions(beam_size=5),
    ]
    futures = together(engine, [windows["de.opus"]] * len(options), options)
    results = [future.result(60) for future in futures]
    german, english = "zwei sieben eins acht zwei acht", "two seven one eight two eight"
    assert [result.text for result in results] == [german, english, english, german, german, german, german]
    assert {result.language for result in results} == {"de"}
    assert results[5].temperature == 0.4
    assert [len(result.segments) for result in results] == [1] * len(options)
    plain = results[4].segments[0]
    assert (plain.start, plain.end) == (0, len(windows["de.opus"]) / 16_000)
    assert engine.stats().mean_batch_size > 5


def test_every_window_is_encoded_once(nano: WhisperModel, windows: Windows, encoded: list[int]) -> None:
    """Languages detected, prompts, retries and words included."""
    engine = Engine(nano, Batching(max_batch_size=5))
    options = [
        DETECT,
        TranscriptionOptions(language="fr", prompt="un"),
        TranscriptionOptions(logprob_threshold=0.0, timestamps="word"),
    ]
    pairs = [(window, option) for window in windows.values() for option in options]
    futures = together(engine, [window for window, _ in pairs], [option for _, option in pairs])
    assert not wait(futures, 60).not_done
    assert sum(encoded) == len(futures)
    stats = engine.stats()
    assert (stats.windows, stats.encoded, stats.failed, stats.waiting) == (12, 12, 0, 0)
    assert stats.tries == 8 + 4 * 6, "the third of each four was tried at every temperature"
    assert stats.tokens == sum(len(future.result().tokens) for future in futures)
    assert 1 < stats.mean_batch_size <= 5
    engine.close()


def test_only_a_window_that_fails_is_tried_hotter(engine: Engine, windows: Windows) -> None:
    picky = TranscriptionOptions(logprob_threshold=-1e-9, no_speech_threshold=None)
    good, bad = together(engine, [windows["en.mp3"]] * 2, [DETECT, picky])
    assert good.result(60).temperature == 0
    assert bad.result(60).text == "three one four one five nine", "the best try is kept"
    assert engine.stats().tries == 1 + 6
    again = engine.submit(
        windows["en.mp3"], picky.model_copy(update={"temperature_increment_on_fallback": None}), "job"
    )
    assert again.result(60).temperature == 0
    assert engine.stats().tries == 8


def test_a_window_that_seems_silent_has_no_text(engine: Engine, windows: Windows) -> None:
    options = TranscriptionOptions(no_speech_threshold=0.0, logprob_threshold=-1e-9)
    result = engine.submit(windows["en.mp3"], options, "job").result(60)
    assert (result.text, result.segments, result.tokens) == ("", (), ())


def test_a_loop_is_cut(engine: Engine, windows: Windows) -> None:
    """A model that may write nothing but one word and its timestamps says it for ever."""
    special = engine._model.card.tokens
    one = engine._model.tokenize("one")[0]
    others = tuple(token for token in range(special.no_timestamps) if token != one)
    options = TranscriptionOptions(suppress_tokens=others, timestamps="none", compression_ratio_threshold=None)
    result = engine.submit(windows["en.mp3"], options, "job").result(60)
    assert result.text == "one"


def test_every_token_has_its_log_probability(engine: Engine, windows: Windows) -> None:
    result = engine.submit(windows["fr.flac"], TranscriptionOptions(logprobs=True), "job").result(60)
    (segment,) = result.segments
    assert segment.logprobs is not None
    assert "".join(token.token for token in segment.logprobs) == segment.text
    assert b"".join(bytes(token.bytes) for token in segment.logprobs).decode() == segment.text
    assert all(-5 < token.logprob <= 0 for token in segment.logprobs)
    assert engine.submit(windows["fr.flac"], DETECT, "job").result(60).segments[0].logprobs is None


def test_every_word_has_its_time(engine: Engine, windows: Windows, said: Said) -> None:
    options = TranscriptionOptions(timestamps="word")
    futures = together(engine, list(windows.values()), [options] * len(windows))
    for (_, text), future in zip(said.values(), futures, strict=True):
        (segment,) = future.result(60).segments
        assert segment.words is not None
        assert [word.text.strip() for word in segment.words] == text.split()
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert segment.start <= times[0] < times[-1] <= segment.end
        assert all(0.05 < word.end - word.start < 1 for word in segment.words)
        assert all(0 < word.probability <= 1 for word in segment.words)


def test_words_of_a_translation(engine: Engine, windows: Windows) -> None:
    options = TranscriptionOptions(timestamps="word", task="translate", language="de")
    (segment,) = engine.submit(windows["de.opus"], options, "job").result(60).segments
    assert segment.words is not None
    assert [word.text for word in segment.words] == [" two", " seven", " one", " eight", " two", " eight"]


def test_what_was_said_before_is_told(engine: Engine, windows: Windows) -> None:
    """The words stay; how likely they are does not."""
    tokens = engine._model.tokenize("three one four one five nine")
    before, alone = (engine.submit(windows["es.wav"], DETECT, "job", previous=p).result(60) for p in (tokens, ()))
    assert before.text == alone.text
    assert before.avg_logprob != alone.avg_logprob


def test_too_many_hotwords_are_refused(engine: Engine, windows: Windows) -> None:
    with pytest.raises(InvalidRequest, match="at most 223 tokens long, not 300") as caught:
        engine.submit(windows["en.mp3"], TranscriptionOptions(hotwords="one " * 300), "job")
    assert caught.value.param == "hotwords"


@pytest.mark.parametrize(("size", "rows"), [(16, 5), (3, 3)])
def test_the_models_beams_where_a_client_does_not_say(
    nano: WhisperModel, windows: Windows, monkeypatch: pytest.MonkeyPatch, size: int, rows: int
) -> None:
    """As many as the engine has rows for."""
    monkeypatch.setattr(nano, "card", replace(nano.card, beam_size=5))
    engine = Engine(nano, Batching(max_batch_size=size))
    engine.submit(windows["en.mp3"], DETECT, "job").result(60)
    stats = engine.stats()
    assert stats.rows == rows * stats.steps
    engine.submit(windows["en.mp3"], TranscriptionOptions(beam_size=1), "job").result(60)
    assert engine.stats().rows - stats.rows == engine.stats().steps - stats.steps
    engine.close()


@pytest.mark.parametrize("name", ["beam_size", "best_of"])
def test_more_texts_than_rows_are_refused(nano: WhisperModel, windows: Windows, name: str) -> None:
    engine = Engine(nano, Batching(max_batch_size=4))
    with pytest.raises(InvalidRequest, match=f"{name} must be at most 4") as caught:
        engine.submit(windows["en.mp3"], TranscriptionOptions(**{name: 5}), "job")
    assert caught.value.param == name
    engine.close()


def test_a_short_job_does_not_wait_behind_a_long_one(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano, Batching(max_batch_size=2))
    finished: list[str] = []
    window = windows["en.mp3"]

    def submit(job: str) -> "Future[WindowText]":
        future = engine.submit(window, TranscriptionOptions(language="en"), job)
        future.add_done_callback(lambda _: finished.append(job))
        return future

    with engine._changed:
        futures = [submit("long") for _ in range(6)] + [submit("short")]
    assert not wait(futures, 60).not_done
    assert "short" in finished[:2]
    engine.close()


def test_cancelling_frees_the_place_in_the_queue(engine: Engine, windows: Windows, encoded: list[int]) -> None:
    with engine._changed:
        futures = together(engine, [windows["en.mp3"]] * 3, [DETECT] * 3)
        assert futures[1].cancel()
        assert engine.stats().waiting == 2
        assert wait(futures[1:2], 1).done, "those who wait for it are told"
    assert not wait(futures, 60).not_done
    assert sum(encoded) == 2
    with pytest.raises(CancelledError):
        futures[1].result()


def test_cancelling_frees_the_rows_of_a_window_that_is_decoded(engine: Engine, windows: Windows) -> None:
    special = engine._model.card.tokens
    endless = TranscriptionOptions(
        suppress_tokens=(special.end,), timestamps="none", temperature=1.0, best_of=12, logprob_threshold=None
    )
    futures = together(engine, [windows["en.mp3"]] * 3, [endless, endless, DETECT])
    while engine.stats().steps < 3:
        time.sleep(0.001)
    assert futures[0].cancel()
    assert wait(futures[:1], 10).done
    assert futures[1].cancel()
    assert futures[2].result(10).text == "three one four one five nine"
    assert engine.stats().windows == 1
    assert engine._scheduler.rows_in_use == 0
    assert not engine._pending


def test_a_broken_window_fails_alone(engine: Engine, windows: Windows) -> None:
    futures = together(engine, [windows["en.mp3"]] * 3, [DETECT, BROKEN, DETECT])
    with pytest.raises(KeyError, match="sing"):
        futures[1].result(60)
    assert [futures[index].result(60).text for index in (0, 2)] == ["three one four one five nine"] * 2
    stats = engine.stats()
    assert (stats.windows, stats.failed) == (2, 1)
    assert engine.submit(windows["es.wav"], DETECT, "next").result(60).language == "es"


def test_a_step_that_fails_costs_nobody_else_a_text(
    engine: Engine, windows: Windows, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device fails once, in the middle: everything under way is decoded again, one by one."""
    step, calls = engine._decoder.step, iter(range(100))

    def failing() -> Any:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("no room")
        return step()

    monkeypatch.setattr(engine._decoder, "step", failing)
    futures = together(engine, list(windows.values()), [TranscriptionOptions(timestamps="word")] * len(windows))
    assert [future.result(60).text for future in futures] == [words for _, words in said.values()]
    assert engine.stats().failed == 0
    assert engine._scheduler.rows_in_use == 0


def test_a_failure_does_not_hold_on_to_its_tensors(engine: Engine, windows: Windows) -> None:
    error = engine.submit(windows["en.mp3"], BROKEN, "bad").exception(60)
    assert error is not None
    assert error.__traceback__ is None


def test_rows_can_be_added_and_taken_away_live(engine: Engine, windows: Windows) -> None:
    first = together(engine, [windows["en.mp3"]] * 8, [DETECT] * 8)
    engine.reconfigure(Batching(max_batch_size=2))
    second = together(engine, [windows["en.mp3"]] * 8, [DETECT] * 8)
    assert {future.result(60).text for future in [*first, *second]} == {"three one four one five nine"}
    assert engine._decoder.size == 2


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
    with pytest.raises(InvalidRequest, match="does not support"):
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


def test_closing_cancels_what_has_not_ended_and_ends_the_thread(nano: WhisperModel, windows: Windows) -> None:
    engine = Engine(nano)
    with engine._changed:
        future = engine.submit(windows["en.mp3"], DETECT, "job")
        engine._closed = True  # before the thread sees the window
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


@pytest.mark.slow
def test_letting_bulk_windows_in_leaves_a_clip_half_of_the_time(nano: WhisperModel, windows: Windows) -> None:
    """While a clip is decoded, steps without a newcomer come between others' encodings."""
    engine = Engine(nano, Batching(max_batch_size=8))
    window = windows["en.mp3"]
    let_in: list[tuple[bool, float, float]] = []  # beside a clip, began, ended
    admit = engine._start_decoding

    def noted(encoding: Any) -> None:
        beside = engine._scheduler.serves_interactive and not any(
            engine._pending[work].interactive for work in encoding.tasks
        )
        admit(encoding)
        let_in.append((beside, encoding.started, time.monotonic()))

    engine._start_decoding = noted  # type: ignore[method-assign]
    bulk = [engine.submit(window, DETECT, "bulk", interactive=False) for _ in range(40)]
    long = TranscriptionOptions(
        suppress_tokens=(nano.card.tokens.end,),
        max_new_tokens=400,
        timestamps="none",
        temperature=1.0,
    )
    engine.submit(window, long, "clip").result(60)
    assert not wait(bulk, 60).not_done
    engine.close()
    gaps = [(now[1] - before[2], before[2] - before[1]) for before, now in pairwise(let_in) if before[0] and now[0]]
    assert gaps, "some bulk windows came in beside a clip"
    assert all(gap >= 0.9 * took for gap, took in gaps)


def test_a_window_whose_words_cannot_be_timed_fails_alone(
    engine: Engine, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are free by then; the thread goes on."""

    def failing() -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(engine._aligner, "run", failing)
    timed = engine.submit(windows["en.mp3"], TranscriptionOptions(timestamps="word"), "job")
    with pytest.raises(torch.OutOfMemoryError):
        timed.result(60)
    assert engine.submit(windows["en.mp3"], DETECT, "next").result(60).text == "three one four one five nine"
    engine.check()


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_text_ends_when_everything_is_suppressed(engine: Engine, windows: Windows, beam_size: int) -> None:
    everything = tuple(range(engine._model.card.tokens.first_timestamp))
    options = TranscriptionOptions(suppress_tokens=everything, beam_size=beam_size)
    result = engine.submit(windows["en.mp3"], options, "job").result(60)
    assert result.text == ""
    assert np.isfinite(result.avg_logprob)


def test_an_engine_whose_device_hangs_calls_itself_ill(
    nano: WhisperModel, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, go_on = threading.Event(), threading.Event()
    encode = nano.encode

    def hang(features: torch.Tensor) -> torch.Tensor:
        hanging.set()
        go_on.wait(60)
        return encode(features)

    engine = Engine(nano, watchdog_s=0.2)
    engine.check()
    monkeypatch.setattr(nano, "encode", hang)
    future = engine.submit(windows["en.mp3"], TranscriptionOptions(), "job")
    assert hanging.wait(60)
    time.sleep(0.3)
    with pytest.raises(RuntimeError, match="hangs"):
        engine.check()
    go_on.set()
    assert future.result().text
    time.sleep(0.3)  # with nothing to do
    engine.check()
    engine.close()
