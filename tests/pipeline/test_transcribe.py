"""The pipeline with its real parts, and a stand-in for the Whisper replicas."""

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.errors import Unavailable
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.block_cache import BlockCache
from serve_app.pipeline.transcribe import Pipeline, TranscribeBatch
from serve_app.schemas.job import Job
from serve_app.schemas.request import JobRequest, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import TextDelta, Transcript, final_transcript
from serve_app.settings import LimitSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText
from tests.pipeline.helpers import NO_TEXT, settings_of, transcribe, window_text

DATA = Path(__file__).parents[1] / "data"


async def run(
    folder: Path,
    sound: bytes,
    transcribe_batch: TranscribeBatch,
    windows: dict[str, float] | None = None,
    **more: Any,
) -> Transcript:
    return await final_transcript(
        transcribe(settings_of(folder, windows=windows or {}), sound, transcribe_batch, **more)
    )


def minutes_of_speech(count: int) -> bytes:
    """Repeats of one recording, each a little quieter than the one before: no two blocks are equal."""
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    repeats = [pcm * (1 - number / 200) for number in range(count * 60 * SAMPLE_RATE // len(pcm))]
    sound = np.concatenate(repeats).astype(np.int16)
    segment = AudioSegment(sound.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    file: bytes = segment.export(format="wav").read()
    return file


async def no_text(model: str, batch: WindowBatch) -> Sequence[WindowText]:
    return [NO_TEXT] * len(batch.windows)


async def test_blocks_are_in_flight_together_but_no_more_than_allowed(tmp_path: Path) -> None:
    in_flight, most, blocks = 0, 0, 0
    reports: list[float] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal in_flight, most, blocks
        in_flight, blocks = in_flight + 1, blocks + 1
        most = max(most, in_flight)
        await asyncio.sleep(0.2)
        in_flight -= 1
        return [NO_TEXT] * len(batch.windows)

    windows = {"block_s": 20, "blocks_in_flight": 3}
    transcript = await run(tmp_path, minutes_of_speech(4), transcribe_batch, windows, report=reports.append)
    assert (transcript.text, most) == ("", 3)
    assert blocks > 10
    assert len(reports) == blocks
    assert reports == sorted(reports)
    assert reports[-1] == pytest.approx(1, abs=0.1)


async def test_a_batch_carries_all_that_an_engine_needs(tmp_path: Path) -> None:
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
async def test_a_delta_is_sent_as_soon_as_it_and_all_text_before_it_are_known(
    tmp_path: Path, conditioned: bool
) -> None:
    started = in_flight = most = 0
    deltas: list[str] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal started, in_flight, most
        assert len(batch.windows) == 1
        started, in_flight = started + 1, in_flight + 1
        number, most = started, max(most, in_flight)
        # Odd ones are late, and so are the even ones behind them.
        await asyncio.sleep(0.2 if number % 2 else 0.0)
        assert conditioned or len(deltas) < number
        in_flight -= 1
        return [window_text(f" {number}", (number,))]

    settings = settings_of(tmp_path, windows={"streamed_in_flight": 4})
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
    assert most == 1 if conditioned else 1 < most <= 4
    assert len(deltas) == started > 12


async def test_deltas_are_sent_while_the_rest_is_cut(tmp_path: Path) -> None:
    started, deltas = 0, 0
    lags: list[int] = []

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal started
        lags.append(started - deltas)
        started += 1
        return [window_text(" one")]

    async for item in transcribe(settings_of(tmp_path), minutes_of_speech(3), transcribe_batch, stream=True):
        deltas += isinstance(item, TextDelta)
    assert max(lags) <= 2, "only the window before may still wait"


async def test_deltas_are_sent_on_request_only(tmp_path: Path) -> None:
    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        return [window_text(" one")] * len(batch.windows)

    (item,) = [item async for item in transcribe(settings_of(tmp_path), minutes_of_speech(1), transcribe_batch)]
    assert isinstance(item, Transcript)


@pytest.mark.parametrize("closed", [True, False])
async def test_a_consumer_that_stops_cancels_the_batches_and_the_diarization(tmp_path: Path, closed: bool) -> None:
    """Whether it closes the stream or is cancelled while it waits."""
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
        settings_of(tmp_path, diarization={"pipeline": "diarization-nano"}),
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


async def test_a_recording_is_cut_as_its_options_say(tmp_path: Path) -> None:
    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal samples
        samples += sum(window.end - window.start for window in batch.windows)
        return await no_text(model, batch)

    found = []
    for vad in (None, {"pad_ms": 0}, {"threshold": 1}):
        samples = 0
        await run(tmp_path, minutes_of_speech(1), transcribe_batch, options=TranscriptionOptions(vad=vad))
        found.append(samples)
    padded, bare, deaf = found
    assert padded > bare > deaf == 0


async def test_a_failing_block_cancels_the_others(tmp_path: Path) -> None:
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


async def test_a_truncated_recording_is_transcribed_with_a_warning(tmp_path: Path) -> None:
    whole = (DATA / "fr.flac").read_bytes()
    transcript = await run(tmp_path, whole[: len(whole) // 2], no_text)
    assert 0.5 < transcript.duration < 3
    assert transcript.warnings


async def test_a_model_that_is_not_served_here_makes_the_job_run_elsewhere(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    request = JobRequest(source=UrlSource(url="http://127.0.0.1:9/a.mp3"), model="gone")
    async with guarded_session(settings.network) as session:
        pipeline = Pipeline(settings, BlobStore(settings.blob_root), session, no_text)
        with pytest.raises(Unavailable, match="'gone' is not served"):
            await final_transcript(pipeline.transcribe(Job.running("job", request)))


@pytest.mark.parametrize("conditioned", [True, False])
async def test_batches_have_the_tokens_of_the_text_before(tmp_path: Path, conditioned: bool) -> None:
    """One batch after the other if so; and the first one is marked in any case."""
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


class MemoryCache:
    """A `BlockCache` in memory."""

    def __init__(self) -> None:
        self.blocks: dict[int, str] = {}

    async def load_blocks(self) -> dict[int, str]:
        return dict(self.blocks)

    async def save_block(self, number: int, content: str) -> None:
        self.blocks[number] = content


@pytest.mark.parametrize("conditioned", [True, False])
async def test_a_run_that_begins_again_transcribes_only_the_missing_blocks(tmp_path: Path, conditioned: bool) -> None:
    """With the same text as a run that was never lost, also where a block needs the text before it."""
    transcribed: list[int] = []
    lost_after: int | None = None

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        if lost_after is not None and len(transcribed) >= lost_after:
            raise OSError("the replica is gone")
        block = zlib.crc32(batch.pcm.tobytes())
        transcribed.append(block)
        tokens = (block, *(batch.previous_tokens or ())[-1:])
        return [window_text(f"{tokens}", tokens)] * len(batch.windows)

    async def run_again(cache: BlockCache | None = None) -> Transcript:
        options = TranscriptionOptions(condition_on_previous_text=conditioned)
        windows = {"block_s": 20, "blocks_in_flight": 2}
        return await run(tmp_path, minutes_of_speech(2), transcribe_batch, windows, options=options, block_cache=cache)

    whole = await run_again()
    assert whole.segments
    every, transcribed, lost_after, cache = transcribed, [], 3, MemoryCache()
    assert len(set(every)) == len(every) > 4
    with pytest.raises(OSError, match="gone"):
        await run_again(cache)
    cached = {every[number] for number in cache.blocks}
    assert cached
    transcribed, lost_after = [], None
    resumed = await run_again(cache)
    assert resumed.segments == whole.segments
    assert sorted(transcribed) == sorted(set(every) - cached)


async def test_blocks_of_another_model_are_transcribed_again(tmp_path: Path) -> None:
    transcribed = 0

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal transcribed
        transcribed += 1
        return await no_text(model, batch)

    cache = MemoryCache()
    await run(tmp_path, minutes_of_speech(1), transcribe_batch, {"block_s": 20}, block_cache=cache)
    blocks = transcribed
    cache.blocks = {number: text.replace("whisper-nano", "large-v3") for number, text in cache.blocks.items()}
    await run(tmp_path, minutes_of_speech(1), transcribe_batch, {"block_s": 20}, block_cache=cache)
    assert transcribed == 2 * blocks
