"""Speakers told apart while the text is found: on the whole recording, which the text never waits for in vain."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.errors import AudioError, ServiceError, Unavailable
from serve_app.schemas.request import DiarizationOptions
from serve_app.schemas.transcript import Turn
from serve_app.settings import AppSettings, DiarizationSettings

Diarize = Callable[[NDArray[np.int16], DiarizationOptions], Awaitable[tuple[Turn, ...]]]
"""Takes a whole recording at 16 kHz: (samples,), or (samples, channels) for `channels: separate`."""

FIELD = "diarization.channels"

logger = logging.getLogger(__name__)


class DiarizationResult(NamedTuple):
    """The turns, or null and a warning; and the seconds it took."""

    turns: tuple[Turn, ...] | None
    warnings: tuple[str, ...]
    seconds: float


def check_channels(path: Path, options: DiarizationOptions, settings: AppSettings) -> None:
    """Raise AudioError for a recording that has no channel for each speaker, when it should. Not for an event loop."""
    if options.channels != "separate":
        return
    channels, most = AudioDecoder(path, settings.limits).channels, settings.diarization.max_channels
    if channels < 2:
        raise AudioError(
            f"{FIELD}: the recording has a single channel: 'separate' needs one channel per speaker, use 'mixed'",
            FIELD,
            "one_channel",
        )
    if channels > most:
        raise AudioError(
            f"{FIELD}: the recording has {channels} channels; at most {most} are allowed: use 'mixed'",
            FIELD,
            "too_many_channels",
        )


async def diarize_recording(
    path: Path, options: DiarizationOptions, settings: AppSettings, diarize: Diarize
) -> DiarizationResult:
    """Return the speaker turns of a decodable recording. Failures are warnings: the text is not affected.

    Memory: 2 bytes a sample and channel, until `diarize` has them.
    """
    started = time.perf_counter()
    turns, why = None, ""
    try:
        turns = await _in_time(await _decoded(path, options, settings), options, settings.diarization, diarize)
    except ServiceError as error:
        why = error.message
    except Exception as error:
        logger.exception("speakers could not be told apart")
        why = f"an internal error ({type(error).__name__})"
    warnings = (f"speakers could not be told apart: {why}",) if turns is None else ()
    return DiarizationResult(turns, warnings, round(time.perf_counter() - started, 3))


async def _decoded(path: Path, options: DiarizationOptions, settings: AppSettings) -> NDArray[np.int16]:
    """The whole recording, once more: the other decoding keeps step with the text."""
    separate = options.channels == "separate"
    most_s = settings.diarization.max_audio_s
    decoding = AudioDecoder(path, settings.limits, separate_channels=separate)
    chunks = iter(decoding)
    sound = bytearray()  # grows in place
    shape: tuple[int, ...] = (-1,)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        if sound and chunk.shape[1:] != shape[1:]:
            raise AudioError(
                "the number of channels changes within the recording: only a constant number is supported",
                FIELD,
                "channels_change",
            )
        if decoding.samples_read > most_s * SAMPLE_RATE:
            raise AudioError(f"the recording is longer than {most_s:g} s", None, "audio_too_long")
        shape = (-1, *chunk.shape[1:])
        sound += chunk.tobytes()
    return np.frombuffer(sound, np.int16).reshape(shape)


async def _in_time(
    pcm: NDArray[np.int16], options: DiarizationOptions, settings: DiarizationSettings, diarize: Diarize
) -> tuple[Turn, ...]:
    limit = settings.timeout_s + len(pcm) / SAMPLE_RATE
    timer = asyncio.timeout(limit)
    work = diarize(pcm, options)
    del pcm  # it is large, and belongs to who works with it
    try:
        async with timer:
            return await work
    except TimeoutError:
        if timer.expired():
            raise Unavailable(f"not done within {limit:.0f} s") from None
        raise
