"""Speakers beside the text, in the transcriber's flow: they come with it, and nothing that befalls them costs it."""

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
from tests.pipeline.helpers import NO_TEXT, settings_of, transcribe

TURNS = (Turn(start=0.0, end=2.0, speaker="SPEAKER_00"), Turn(start=2.0, end=9.0, speaker="Ann"))


async def one_word(model: str, batch: WindowBatch) -> Sequence[WindowText]:
    """Windows of one word each, which takes a while."""
    await asyncio.sleep(0.3)
    word = Word(start=0.1, end=0.4, text=" one", tokens=(1,), probability=1)
    segment = WindowSegment(start=0.0, end=2.0, text=" one", tokens=(1,), words=(word,))
    return [NO_TEXT.model_copy(update={"segments": (segment,), "tokens": (1,)})] * len(batch.windows)


def wav(sound: NDArray[np.int16], channels: int = 1) -> bytes:
    file = io.BytesIO()
    AudioSegment(sound.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=channels).export(file, format="wav")
    return file.getvalue()


async def run(
    folder: Path,
    sound: bytes,
    diarize: Diarize | None,
    options: dict[str, Any],
    transcribe_batch: TranscribeBatch = one_word,
    **diarization: Any,
) -> Transcript:
    settings = settings_of(folder, windows={"max_s": 2}, diarization={"pipeline": "diarization-nano", **diarization})
    asked = TranscriptionOptions.model_validate(options)
    return await final_transcript(transcribe(settings, sound, transcribe_batch, options=asked, diarize=diarize))


async def test_words_get_speakers_while_the_text_is_found(tmp_path: Path) -> None:
    heard: list[NDArray[np.int16]] = []
    both = asyncio.Barrier(2)

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        assert options.num_speakers == 2
        heard.append(pcm)
        await both.wait()
        return TURNS

    async def meanwhile(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        if batch.previous_tokens is None:
            await both.wait()
        return await one_word(model, batch)

    sound = conversation(12)
    async with asyncio.timeout(20):
        transcript = await run(
            tmp_path, wav(sound), diarize, {"diarization": {"num_speakers": 2}}, transcribe_batch=meanwhile
        )
    assert np.array_equal(heard[0], sound)
    assert heard[0].dtype == np.int16
    assert transcript.turns == TURNS
    assert {segment.speaker for segment in transcript.segments} == {"SPEAKER_00", "Ann"}
    assert all(segment.words is None for segment in transcript.segments), "words were not asked for"
    assert not transcript.warnings
    assert transcript.timings["diarize"] > 0
    both = asyncio.Barrier(1)
    with_words = await run(tmp_path, wav(sound), diarize, {"diarization": {"num_speakers": 2}, "timestamps": "word"})
    words = [word for segment in with_words.segments for word in segment.words or ()]
    assert {word.speaker for word in words} == {"SPEAKER_00", "Ann"}


async def test_the_text_does_not_wait_for_speakers_nobody_asked_for(tmp_path: Path) -> None:
    transcript = await run(tmp_path, wav(conversation(3)), None, {})
    assert transcript.turns is None
    assert "diarize" not in transcript.timings


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (Unavailable("the diarization deployment is away"), "the diarization deployment is away"),
        (RuntimeError("CUDA out of memory"), "an internal error (RuntimeError)"),
        (TimeoutError(), "an internal error (TimeoutError)"),
    ],
)
async def test_what_fails_is_a_warning(tmp_path: Path, raised: Exception, said: str) -> None:
    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        raise raised

    transcript = await run(tmp_path, wav(conversation(5)), diarize, {"diarization": {}})
    assert transcript.text
    assert transcript.turns is None
    assert transcript.warnings == (f"diarization failed: {said}",)
    assert all(segment.speaker is None and segment.words is None for segment in transcript.segments)


async def test_what_takes_too_long_is_given_up_with_a_warning(tmp_path: Path) -> None:
    cancelled = False

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled = True
            raise
        return ()

    transcript = await run(tmp_path, wav(conversation(1.5)), diarize, {"diarization": {}}, timeout_s=0.1)
    assert transcript.warnings == ("diarization failed: not finished within 2 s",)
    assert cancelled


async def test_a_recording_that_is_too_long_for_it_goes_without(tmp_path: Path) -> None:
    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        raise AssertionError("too long")

    transcript = await run(tmp_path, wav(conversation(12)), diarize, {"diarization": {}}, max_audio_s=10)
    assert transcript.warnings == ("diarization failed: the recording is longer than 10 s",)
    assert transcript.text


async def test_a_text_that_fails_gives_the_speakers_up(tmp_path: Path) -> None:
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
        await run(tmp_path, wav(conversation(4)), diarize, {"diarization": {}}, transcribe_batch=fail)
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_separate_channels_are_heard_apart(tmp_path: Path) -> None:
    heard: list[NDArray[np.int16]] = []

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        heard.append(pcm)
        return TURNS

    left, right = conversation(6), conversation(6)[::-1]
    sound = wav(np.stack([left, right], axis=1), channels=2)
    transcript = await run(tmp_path, sound, diarize, {"diarization": {"channels": "separate"}})
    assert transcript.turns == TURNS
    assert np.array_equal(heard[0], np.stack([left, right], axis=1))


@pytest.mark.parametrize(("channels", "code"), [(1, "one_channel"), (3, "too_many_channels")])
async def test_channels_that_are_no_speakers_are_refused_before_any_work(
    tmp_path: Path, channels: int, code: str
) -> None:
    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        raise AssertionError("refused")

    sound = wav(np.repeat(conversation(3)[:, None], channels, axis=1), channels)
    with pytest.raises(AudioError) as caught:
        await run(tmp_path, sound, diarize, {"diarization": {"channels": "separate"}}, max_channels=2)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "diarization.channels", code)
