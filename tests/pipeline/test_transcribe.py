"""The pipeline with its real parts, and a stand-in for the Whisper replicas."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.errors import Unavailable
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.transcribe import Pipeline
from serve_app.schemas.job import Job
from serve_app.schemas.request import JobRequest, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import TextDelta, Transcript, final_transcript
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText
from tests.pipeline.helpers import (
    DATA,
    NO_TEXT,
    minutes_of_speech,
    no_text,
    pipeline_settings,
    run,
    transcribe,
    window_text,
)

pytestmark = pytest.mark.slow  # transcribes many windows


async def test_blocks_in_flight_are_limited(tmp_path: Path) -> None:
    in_flight, maximum, blocks = 0, 0, 0
    reports: list[float] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal in_flight, maximum, blocks
        in_flight, blocks = in_flight + 1, blocks + 1
        maximum = max(maximum, in_flight)
        await asyncio.sleep(0.2)
        in_flight -= 1
        return [NO_TEXT] * len(batch.windows)

    windows = {"block_s": 20, "blocks_in_flight": 3}
    transcript = await run(tmp_path, minutes_of_speech(4), transcribe_batch, windows, report=reports.append)
    assert (transcript.text, maximum) == ("", 3)
    assert blocks > 10
    assert len(reports) == blocks
    assert reports == sorted(reports)
    assert reports[-1] == pytest.approx(1, abs=0.1)


async def test_contents_of_a_batch(tmp_path: Path) -> None:
    batches: list[tuple[str, WindowBatch]] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        batches.append((model, batch))
        return await no_text(model, batch)

    options = TranscriptionOptions(language="es", timestamps="word", initial_prompt="uno")
    await run(tmp_path, minutes_of_speech(1), transcribe_batch, {"block_s": 20}, options=options)
    assert len(batches) > 1
    for model, batch in batches:
        assert (model, batch.options, batch.job_id, batch.interactive) == ("whisper-nano", options, "job", True)
        assert batch.windows[0].start == 0
        assert batch.windows[-1].end == len(batch.pcm)
        assert batch.pcm.dtype == np.int16


@pytest.mark.parametrize("conditioned", [True, False])
async def test_deltas_are_sent_in_order_as_soon_as_possible(tmp_path: Path, conditioned: bool) -> None:
    started = in_flight = maximum = 0
    deltas: list[str] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal started, in_flight, maximum
        assert len(batch.windows) == 1
        started, in_flight = started + 1, in_flight + 1
        number, maximum = started, max(maximum, in_flight)
        # Odd batches are slow, and delay the even ones that follow.
        await asyncio.sleep(0.2 if number % 2 else 0.0)
        assert conditioned or len(deltas) < number
        in_flight -= 1
        return [window_text(f" {number}", (number,))]

    settings = pipeline_settings(tmp_path, windows={"streamed_in_flight": 4})
    options = TranscriptionOptions(condition_on_previous_text=conditioned)
    items = []
    async for item in transcribe(settings, minutes_of_speech(3), transcribe_batch, options=options, stream=True):
        items.append(item)
        if isinstance(item, TextDelta):
            deltas.append(item.text)
            assert len(deltas) > 3 or started < 12, "sent only when most of the recording was transcribed"
    *before, transcript = items
    assert all(isinstance(item, TextDelta) for item in before)
    assert isinstance(transcript, Transcript)
    assert "".join(deltas) == transcript.text == " ".join(str(number) for number in range(1, started + 1))
    assert maximum == 1 if conditioned else 1 < maximum <= 4
    assert len(deltas) == started > 12


async def test_deltas_are_sent_during_segmentation(tmp_path: Path) -> None:
    started, deltas = 0, 0
    lags: list[int] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal started
        lags.append(started - deltas)
        started += 1
        return [window_text(" one")]

    async for item in transcribe(pipeline_settings(tmp_path), minutes_of_speech(3), transcribe_batch, stream=True):
        deltas += isinstance(item, TextDelta)
    assert max(lags) <= 2, "only one window may wait for its delta"


async def test_no_deltas_without_a_request(tmp_path: Path) -> None:
    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        return [window_text(" one")] * len(batch.windows)

    (item,) = [item async for item in transcribe(pipeline_settings(tmp_path), minutes_of_speech(1), transcribe_batch)]
    assert isinstance(item, Transcript)


@pytest.mark.parametrize("closed", [True, False])
async def test_stopped_consumer_cancels_the_work(tmp_path: Path, closed: bool) -> None:
    """Whether the consumer closes the stream or is cancelled while it waits."""
    cancelled: list[str] = []

    async def hang(what: str) -> Any:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(what)
            raise

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        if batch.previous_tokens is not None:
            return await hang("batch")
        await asyncio.sleep(0.5)  # so that another batch is in flight
        return [window_text(" one")]

    stream = transcribe(
        pipeline_settings(tmp_path, diarization={"pipeline": "diarization-nano"}),
        minutes_of_speech(1),
        transcribe_batch,
        diarize=lambda *_: hang("diarization"),
        options=TranscriptionOptions.model_validate({"diarization": {}}),
        stream=True,
    )
    assert await anext(stream) == TextDelta(text="one")
    if closed:
        await stream.aclose()
    else:
        consumer = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.1)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
    await asyncio.sleep(0)
    assert {"batch", "diarization"} == set(cancelled)


async def test_vad_options(tmp_path: Path) -> None:
    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal samples
        samples += sum(window.end - window.start for window in batch.windows)
        return await no_text(model, batch)

    found = []
    for vad in (None, {"pad_ms": 0}, {"threshold": 1}):
        samples = 0
        await run(tmp_path, minutes_of_speech(1), transcribe_batch, options=TranscriptionOptions(vad=vad))
        found.append(samples)
    padded, bare, without_speech = found
    assert padded > bare > without_speech == 0


async def test_failed_block_cancels_the_others(tmp_path: Path) -> None:
    cancelled = 0

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal cancelled
        if batch.previous_tokens is None:
            await asyncio.sleep(0.3)
            raise OSError("the replica is on fire")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return []

    with pytest.raises(OSError, match="on fire"):
        await run(tmp_path, minutes_of_speech(2), transcribe_batch, {"block_s": 20, "blocks_in_flight": 3})
    await asyncio.sleep(0)
    assert cancelled == 2


async def test_silence_is_not_transcribed(tmp_path: Path) -> None:
    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        raise AssertionError("there is no speech")

    sound = AudioSegment.silent(5000, SAMPLE_RATE).export(format="wav").read()
    transcript = await run(tmp_path, sound, transcribe_batch)
    assert (transcript.text, transcript.language, transcript.duration) == ("", None, 5.0)


async def test_truncated_recording_has_a_warning(tmp_path: Path) -> None:
    whole = (DATA / "fr.flac").read_bytes()
    transcript = await run(tmp_path, whole[: len(whole) // 2], no_text)
    assert 0.5 < transcript.duration < 3
    assert transcript.warnings


async def test_unknown_model_is_unavailable(tmp_path: Path) -> None:
    settings = pipeline_settings(tmp_path)
    request = JobRequest(source=UrlSource(url="http://127.0.0.1:9/a.mp3"), model="gone")
    async with guarded_session(settings.network) as session:
        pipeline = Pipeline(settings, BlobStore(settings.blob_root), session, no_text)
        with pytest.raises(Unavailable, match="'gone' is not served"):
            await final_transcript(pipeline.transcribe(Job.running("job", request)))


@pytest.mark.parametrize("conditioned", [True, False])
async def test_previous_tokens_of_batches(tmp_path: Path, conditioned: bool) -> None:
    """Conditioned batches run one after another; the first batch has no previous tokens."""
    previous: list[tuple[int, ...] | None] = []
    in_flight = 0

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal in_flight
        previous.append(batch.previous_tokens)
        number = len(previous)
        in_flight += 1
        assert in_flight == 1 or not conditioned
        await asyncio.sleep(0.05)
        in_flight -= 1
        temperature = 1.0 if number == 3 else 0.0
        return [NO_TEXT.model_copy(update={"tokens": (number,), "temperature": temperature})] * len(batch.windows)

    options = TranscriptionOptions(condition_on_previous_text=conditioned)
    windows = {"block_s": 20, "blocks_in_flight": 3}
    await run(tmp_path, minutes_of_speech(2), transcribe_batch, windows, options=options)
    assert previous[0] is None
    if conditioned:
        assert set(previous[1] or ()) == {1}
        assert set(previous[2] or ()) == {1, 2}
        assert previous[3] == (), "text of a high temperature is no prompt"
        assert set(previous[4] or ()) == {4}
    else:
        assert set(previous[1:]) == {()}
