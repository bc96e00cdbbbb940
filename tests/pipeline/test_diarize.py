"""Diarization during transcription: it runs at the same time, and its failures cost no text."""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.errors import AudioError, Unavailable
from serve_app.pipeline.diarize import Diarize
from serve_app.pipeline.transcribe import TranscribeBatch
from serve_app.schemas.request import DiarizationOptions, TranscriptionOptions
from serve_app.schemas.transcript import Transcript, Turn, Word, final_transcript
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowSegment, WindowText
from tests.diarization.conversation import conversation
from tests.pipeline.helpers import NO_TEXT, pipeline_settings, transcribe

TURNS = (Turn(start=0.0, end=2.0, speaker="SPEAKER_00"), Turn(start=2.0, end=9.0, speaker="Ann"))


async def transcribe_slowly(model: str, batch: WindowBatch) -> Sequence[WindowText]:
    """Return one word per window, after a while."""
    await asyncio.sleep(0.3)
    word = Word(start=0.1, end=0.4, text=" one", tokens=(1,), probability=1)
    segment = WindowSegment(start=0.0, end=2.0, text=" one", tokens=(1,), words=(word,))
    return [NO_TEXT.model_copy(update={"segments": (segment,), "tokens": (1,)})] * len(batch.windows)


def wav(sound: NDArray[np.int16], channels: int = 1) -> bytes:
    file = io.BytesIO()
    AudioSegment(sound.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=channels).export(file, format="wav")
    return file.getvalue()


async def transcribe_with(
    folder: Path,
    sound: bytes,
    diarize: Diarize | None,
    options: dict[str, Any],
    transcribe_batch: TranscribeBatch = transcribe_slowly,
    **diarization: Any,
) -> Transcript:
    settings = pipeline_settings(
        folder, windows={"max_s": 2}, diarization={"pipeline": "diarization-nano", **diarization}
    )
    transcription_options = TranscriptionOptions.model_validate(options)
    return await final_transcript(
        transcribe(settings, sound, transcribe_batch, options=transcription_options, diarize=diarize)
    )


async def test_diarization_runs_during_transcription(tmp_path: Path) -> None:
    recordings: list[NDArray[np.int16]] = []
    both_started = asyncio.Barrier(2)

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        assert options.num_speakers == 2
        recordings.append(pcm)
        await both_started.wait()
        return TURNS

    async def transcribe_at_once(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        if batch.previous_tokens is None:
            await both_started.wait()
        return await transcribe_slowly(model, batch)

    sound = conversation(12)
    async with asyncio.timeout(20):
        transcript = await transcribe_with(
            tmp_path, wav(sound), diarize, {"diarization": {"num_speakers": 2}}, transcribe_batch=transcribe_at_once
        )
    assert np.array_equal(recordings[0], sound)
    assert recordings[0].dtype == np.int16
    assert transcript.turns == TURNS
    assert {segment.speaker for segment in transcript.segments} == {"SPEAKER_00", "Ann"}
    assert all(segment.words is None for segment in transcript.segments), "words were not asked for"
    assert not transcript.warnings
    assert transcript.timings["diarize"] > 0
    both_started = asyncio.Barrier(1)
    with_words = await transcribe_with(
        tmp_path, wav(sound), diarize, {"diarization": {"num_speakers": 2}, "timestamps": "word"}
    )
    words = [word for segment in with_words.segments for word in segment.words or ()]
    assert {word.speaker for word in words} == {"SPEAKER_00", "Ann"}


async def test_no_diarization_without_a_request(tmp_path: Path) -> None:
    transcript = await transcribe_with(tmp_path, wav(conversation(3)), None, {})
    assert transcript.turns is None
    assert "diarize" not in transcript.timings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unavailable("the diarization deployment is away"), "the diarization deployment is away"),
        (RuntimeError("CUDA out of memory"), "an internal error (RuntimeError)"),
        (TimeoutError(), "an internal error (TimeoutError)"),
    ],
)
async def test_failed_diarization_is_a_warning(tmp_path: Path, error: Exception, message: str) -> None:
    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        raise error

    transcript = await transcribe_with(tmp_path, wav(conversation(5)), diarize, {"diarization": {}})
    assert transcript.text
    assert transcript.turns is None
    assert transcript.warnings == (f"diarization failed: {message}",)
    assert all(segment.speaker is None and segment.words is None for segment in transcript.segments)


@pytest.mark.slow
async def test_diarization_timeout_is_a_warning(tmp_path: Path) -> None:
    cancelled = False

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled = True
            raise
        return ()

    transcript = await transcribe_with(tmp_path, wav(conversation(1.5)), diarize, {"diarization": {}}, timeout_s=0.1)
    assert transcript.warnings == ("diarization failed: not finished within 2 s",)
    assert cancelled


async def test_too_long_recording_is_not_diarized(tmp_path: Path) -> None:
    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        raise AssertionError("too long")

    transcript = await transcribe_with(tmp_path, wav(conversation(12)), diarize, {"diarization": {}}, max_audio_s=10)
    assert transcript.warnings == ("diarization failed: the recording is longer than 10 s",)
    assert transcript.text


async def test_failed_transcription_cancels_the_diarization(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return ()

    async def fail(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        await asyncio.sleep(0.3)
        raise OSError("on fire")

    with pytest.raises(OSError, match="on fire"):
        await transcribe_with(tmp_path, wav(conversation(4)), diarize, {"diarization": {}}, transcribe_batch=fail)
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_separate_channels(tmp_path: Path) -> None:
    recordings: list[NDArray[np.int16]] = []

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        recordings.append(pcm)
        return TURNS

    left, right = conversation(6), conversation(6)[::-1]
    sound = wav(np.stack([left, right], axis=1), channels=2)
    transcript = await transcribe_with(tmp_path, sound, diarize, {"diarization": {"channels": "separate"}})
    assert transcript.turns == TURNS
    assert np.array_equal(recordings[0], np.stack([left, right], axis=1))


@pytest.mark.parametrize(("channels", "code"), [(1, "one_channel"), (3, "too_many_channels")])
async def test_invalid_numbers_of_channels(tmp_path: Path, channels: int, code: str) -> None:
    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        raise AssertionError("refused")

    sound = wav(np.repeat(conversation(3)[:, None], channels, axis=1), channels)
    with pytest.raises(AudioError) as refused:
        await transcribe_with(tmp_path, sound, diarize, {"diarization": {"channels": "separate"}}, max_channels=2)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, "diarization.channels", code)
