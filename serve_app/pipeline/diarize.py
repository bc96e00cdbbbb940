"""Diarize a whole recording while its text is transcribed. A failure costs the speakers, never the text."""

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
from serve_app.settings import AppSettings

Diarize = Callable[[NDArray[np.int16], DiarizationOptions, bool], Awaitable[tuple[Turn, ...]]]
"""Takes a whole recording at 16 kHz, (samples,), or (samples, channels) for `channels: separate`; the options; and
whether it is interactive. Returns the speaker turns."""

FIELD = "diarization.channels"

logger = logging.getLogger(__name__)


class DiarizationResult(NamedTuple):
    """The turns, or null and a warning; and the seconds it took."""

    turns: tuple[Turn, ...] | None
    warnings: tuple[str, ...]
    seconds: float


def check_channels(path: Path, options: DiarizationOptions, settings: AppSettings) -> None:
    """Raise AudioError if `channels: separate` is requested and the number of channels is not supported. Blocks."""
    if options.channels != "separate":
        return
    channels, limit = AudioDecoder(path, settings.limits).channels, settings.diarization.max_channels
    if channels < 2:
        raise AudioError(
            f"{FIELD}: the recording has a single channel: 'separate' needs one channel per speaker, use 'mixed'",
            FIELD,
            "one_channel",
        )
    if channels > limit:
        raise AudioError(
            f"{FIELD}: the recording has {channels} channels; at most {limit} are allowed: use 'mixed'",
            FIELD,
            "too_many_channels",
        )


async def diarize_recording(
    path: Path, options: DiarizationOptions, interactive: bool, settings: AppSettings, diarize: Diarize
) -> DiarizationResult:
    """Return the speaker turns of a decodable recording. Failures are warnings.

    Memory: 2 bytes a sample and channel, until `diarize` has them.
    """
    started = time.perf_counter()
    turns, reason = None, ""
    try:
        pcm = await _decode(path, options, settings)
        limit_s = settings.diarization.timeout_s + len(pcm) / SAMPLE_RATE
        work = diarize(pcm, options, interactive)
        del pcm  # it is large, and belongs to the work
        turns = await _with_timeout(work, limit_s)
    except ServiceError as error:
        reason = error.message
    except Exception as error:
        logger.exception("diarization failed")
        reason = f"an internal error ({type(error).__name__})"
    warnings = (f"diarization failed: {reason}",) if turns is None else ()
    return DiarizationResult(turns, warnings, round(time.perf_counter() - started, 3))


async def _decode(path: Path, options: DiarizationOptions, settings: AppSettings) -> NDArray[np.int16]:
    """Decode the whole recording: a second time, because the first decoding waits for the transcription."""
    separate = options.channels == "separate"
    max_s = settings.diarization.max_audio_s
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
        if decoding.samples_read > max_s * SAMPLE_RATE:
            raise AudioError(f"the recording is longer than {max_s:g} s", None, "audio_too_long")
        shape = (-1, *chunk.shape[1:])
        sound += chunk.tobytes()
    return np.frombuffer(sound, np.int16).reshape(shape)


async def _with_timeout(work: Awaitable[tuple[Turn, ...]], limit_s: float) -> tuple[Turn, ...]:
    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            return await work
    except TimeoutError:
        if timer.expired():
            raise Unavailable(f"not finished within {limit_s:.0f} s") from None
        raise
