"""The engine on a CUDA device, with CUDA graphs, a lookahead step and a separate encoder stream, against the CPU.

Runs without the service's own packages:

    python -m pytest --confcutdir=tests/whisper tests/whisper/decoding/test_cuda.py
"""

import gc
import random
from collections.abc import Iterator
from concurrent.futures import wait

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.schemas.request import TranscriptionOptions
from serve_app.settings import WhisperSettings
from serve_app.whisper.decoding.decoder import Decoder
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from tests.whisper.decoding.runs import (
    Window,
    assert_equal_results,
    decode,
    decode_in_few_rows,
    mixed_requests,
    requests_of_every_search,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FULL = WhisperSettings(device="cuda", dtype="float32")
HALF = WhisperSettings(device="cuda", dtype="float16")


@pytest.fixture(scope="module", autouse=True)
def _no_tf32() -> Iterator[None]:
    """Convolutions in float32, as on the CPU."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(scope="module")
def large(large_layout: WhisperModel) -> WhisperModel:
    return WhisperModel.load(large_layout.card.source, FULL)


@pytest.fixture(scope="module")
def noisy(large: WhisperModel, noises: list[Window]) -> Tensor:
    return large.encode(large.features(noises))


@pytest.fixture(scope="module")
def half() -> WhisperModel:
    return WhisperModel.load("whisper-nano", HALF)


@pytest.fixture
def engine(half: WhisperModel) -> Iterator[Engine]:
    engine = Engine(half, Batching(max_batch_size=16))
    yield engine
    engine.close()


def test_encoder_states_equal_the_cpus(noisy: Tensor, large_states: Tensor) -> None:
    assert torch.allclose(noisy.cpu(), large_states, atol=2e-3, rtol=2e-3)


def test_greedy_results_equal_the_cpus(
    large: WhisperModel, noisy: Tensor, large_layout: WhisperModel, large_states: Tensor
) -> None:
    requests = mixed_requests(large, len(noisy))
    assert_equal_results(decode(large, noisy, requests), decode(large_layout, large_states, requests))


@pytest.mark.parametrize("rows", [3, 7, 16])
def test_results_do_not_depend_on_windows_that_join_and_leave(large: WhisperModel, noisy: Tensor, rows: int) -> None:
    requests = requests_of_every_search(large, len(noisy))
    alone = [decode(large, noisy[i : i + 1], requests[i : i + 1])[0] for i in range(len(requests))]
    assert_equal_results(decode_in_few_rows(large, noisy, requests, rows, 1), alone)


def test_speech_in_four_languages(
    engine: Engine, windows: dict[str, Window], transcripts: dict[str, tuple[str, str]]
) -> None:
    futures = {name: engine.submit(window, TranscriptionOptions(), name) for name, window in windows.items()}
    results = {name: future.result(60) for name, future in futures.items()}
    assert {name: (result.language, result.text) for name, result in results.items()} == transcripts


def test_silence_has_no_text(engine: Engine) -> None:
    assert engine.submit(np.zeros(48_000, np.int16), TranscriptionOptions(), "job").result(60).text == ""


def test_word_timestamps(engine: Engine, windows: dict[str, Window], nano: WhisperModel) -> None:
    options = TranscriptionOptions(timestamps="word")
    cpu = Engine(nano)
    try:
        for window in windows.values():
            found, expected = (each.submit(window, options, "job").result(60) for each in (engine, cpu))
            words, expected_words = ([w for s in text.segments for w in s.words or ()] for text in (found, expected))
            assert [word.text for word in words] == [word.text for word in expected_words]
            assert [word.start for word in words] == pytest.approx([word.start for word in expected_words], abs=0.05)
    finally:
        cpu.close()


def test_the_memory_of_a_decoder_is_freed_at_once(half: WhisperModel) -> None:
    """Without garbage collection, which would break graphs that are being captured."""
    gc.collect()
    gc.disable()
    try:
        before = torch.cuda.memory_allocated()
        decoder = Decoder(half, 8)
        assert torch.cuda.memory_allocated() > before
        del decoder
        assert torch.cuda.memory_allocated() == before
    finally:
        gc.enable()


def test_many_windows_of_every_kind_with_cancellation(engine: Engine, windows: dict[str, Window]) -> None:
    """Texts are the same as for each window alone, whatever is cancelled and whatever the number of rows."""
    kinds = [
        TranscriptionOptions(),
        TranscriptionOptions(language="de", task="translate"),
        TranscriptionOptions(beam_size=5),
        TranscriptionOptions(temperature=0.4, best_of=3),
        TranscriptionOptions(timestamps="word", prompt="three one four"),
        TranscriptionOptions(logprob_threshold=-1e-9, temperature_increment_on_fallback=0.5),
    ]
    work = [(window, options) for window in windows.values() for options in kinds]
    alone = [engine.submit(window, options, "alone").result(60).text for window, options in work]
    chance = random.Random(3)
    for rows in (16, 8, 33):
        engine.reconfigure(Batching(max_batch_size=rows))
        order = [chance.randrange(len(work)) for _ in range(200)]
        futures = [engine.submit(*work[place], str(place)) for place in order]
        for future in chance.sample(futures, 40):
            future.cancel()
        wait(futures, 120)
        pairs = [
            (future.result(0).text, alone[place])
            for future, place in zip(futures, order, strict=True)
            if not future.cancelled()
        ]
        assert len(pairs) >= 160
        assert (
            sum(found != expected for found, expected in pairs) <= 2
        )  # in half precision rounding depends on the batch
