"""Transcribe one recording: fetch, decode, cut into blocks of windows, transcribe them, merge.

The pipeline of a transcriber replica, without Ray: `transcribe_block` is passed in.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import reduce
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import aiohttp

from serve_app.audio.decode import AudioDecoder
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import Block, Window, cut_into_blocks
from serve_app.diarization.assign import assign
from serve_app.models import longest_window_s
from serve_app.net.download import fetch
from serve_app.pipeline.coverage import coverage_warning, speech_without_text
from serve_app.pipeline.diarize import DiarizationResult, Diarize, check_channels, diarize_recording
from serve_app.pipeline.merge import DeltaBuilder, merge
from serve_app.schemas.request import BlobSource, JobRequest, StrictModel, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import OnDelta, Transcript
from serve_app.settings import AppSettings, ServedModel
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.window_text import WindowText, next_prompt_tokens

BlockTranscriber = Callable[[Block, tuple[int, ...] | None], Awaitable[Sequence[WindowText]]]
"""Takes a block, and the tokens of the text before it: null for the first block."""

Report = Callable[[float], None]
"""Takes the share of the recording that is done, from 0 to 1."""


class BlockCache(Protocol):
    """Saves the texts of blocks, as opaque strings, for a run that may have to be repeated."""

    async def load_blocks(self) -> Mapping[int, str]:
        """Return the cached blocks of earlier runs by their numbers."""

    async def save_block(self, number: int, content: str) -> None:
        """Save a block. An exception ends the run."""


class _CachedBlock(StrictModel):
    """A block's texts with its model and windows: cuts may differ between machines, and models between runs."""

    model: str
    windows: tuple[Window, ...]
    texts: tuple[WindowText, ...]


async def transcribe(
    request: JobRequest,
    model: ServedModel,
    settings: AppSettings,
    blobs: BlobStore,
    session: aiohttp.ClientSession,
    transcribe_block: BlockTranscriber,
    report: Report,
    block_cache: BlockCache | None = None,
    on_delta: OnDelta | None = None,
    diarize: Diarize | None = None,
) -> Transcript:
    """Return the transcript of one recording.

    `transcribe_block` transcribes a block of windows by `model`. `session` is a `guarded_session`. Blocks that are in
    `block_cache` are not transcribed again. With `on_delta`, every window is a block of its own, and its text is
    passed on as soon as it and all text before it are known. `diarize` runs on the whole recording meanwhile, if the
    options ask for speakers; its failures are warnings. Temporary files are removed.
    Raises AudioError and TooLarge for the recording, and what `transcribe_block` and `block_cache` raise.
    """
    await asyncio.to_thread(settings.spool_dir.mkdir, parents=True, exist_ok=True)
    started = time.perf_counter()
    with TemporaryDirectory(dir=settings.spool_dir) as folder:
        path = Path(folder) / "audio"
        warnings = await _obtain(request, path, settings, blobs, session)
        fetched = time.perf_counter()
        decoding = AudioDecoder(path, settings.limits, "url" if isinstance(request.source, UrlSource) else "file")
        async with _beside(path, request.options, settings, diarize) as found:
            texts = await _transcribe_blocks(
                decoding,
                model.checkpoint,
                settings,
                request.options.for_decoding,
                transcribe_block,
                report,
                block_cache,
                on_delta,
            )
            timings = {"fetch": round(fetched - started, 3), "transcribe": round(time.perf_counter() - fetched, 3)}
            apart = await found if found else None
    transcript = merge(request.options.task, decoding.samples_read, texts)
    warnings += decoding.warnings
    if warning := coverage_warning(speech_without_text(texts)):
        warnings.append(warning)
    if apart:
        warnings += apart.warnings
        timings["diarize"] = apart.seconds
        if apart.turns is not None:
            transcript = await asyncio.to_thread(assign, transcript, apart.turns)
        if request.options.timestamps != "word":
            transcript = transcript.wordless
    return transcript.model_copy(update={"warnings": tuple(warnings), "timings": timings})


@asynccontextmanager
async def _beside(
    path: Path, options: TranscriptionOptions, settings: AppSettings, diarize: Diarize | None
) -> AsyncIterator[asyncio.Task[DiarizationResult] | None]:
    """Start diarization if requested; it is cancelled when the block ends."""
    if options.diarization is None:
        yield None
        return
    assert diarize is not None, "the service refuses diarization when it is off"
    await asyncio.to_thread(check_channels, path, options.diarization, settings)
    task = asyncio.create_task(diarize_recording(path, options.diarization, settings, diarize))
    try:
        yield task
    finally:
        task.cancel()


async def _obtain(
    request: JobRequest, path: Path, settings: AppSettings, blobs: BlobStore, session: aiohttp.ClientSession
) -> list[str]:
    """Download or copy the recording to `path`. Return warnings."""
    if isinstance(request.source, UrlSource):
        warning = await fetch(session, request.source.url, path, settings.limits, settings.network.max_redirects)
        return [warning] if warning else []
    assert isinstance(request.source, BlobSource), "the service makes a blob of every upload"
    await blobs.copy(request.source.key, path)
    return []


async def _transcribe_blocks(
    decoding: AudioDecoder,
    checkpoint: str,
    settings: AppSettings,
    options: TranscriptionOptions,
    transcribe_block: BlockTranscriber,
    report: Report,
    block_cache: BlockCache | None,
    on_delta: OnDelta | None,
) -> list[tuple[Window, WindowText]]:
    """Return the text of every window, in order. Blocks are transcribed while later ones are decoded."""
    sequential = options.condition_on_previous_text  # each block needs the text of the one before it
    block_s = 0.0 if on_delta else settings.windows.block_s
    max_s = settings.windows.max_s or longest_window_s(checkpoint)
    vad = settings.vad.model_copy(update=options.vad.model_dump(exclude_none=True) if options.vad else {})
    blocks = cut_into_blocks(decoding, SpeechDetector(), vad, max_s, block_s)
    deltas = DeltaBuilder()
    cached = await block_cache.load_blocks() if block_cache else {}
    in_flight: deque[tuple[int, tuple[Window, ...], asyncio.Future[Sequence[WindowText]]]] = deque()
    texts: list[tuple[Window, WindowText]] = []
    context: tuple[int, ...] = ()

    def max_in_flight() -> int:
        """Return the number of blocks that may be in flight now."""
        if sequential:
            return 1
        if on_delta:  # few at first: windows that are decoded together are done together
            return min(settings.windows.streamed_in_flight, 2 + 2 * len(texts))
        return settings.windows.blocks_in_flight

    async def finish_oldest(more: bool) -> None:
        nonlocal context
        number, windows, task = in_flight.popleft()
        found = await task
        texts.extend(zip(windows, found, strict=True))
        if on_delta:
            for piece in filter(None, map(deltas.next, found)):
                on_delta(piece)
        context = reduce(next_prompt_tokens, (text for _, text in texts[-len(windows) :]), context)
        report(decoding.fraction_read * windows[-1].end / decoding.samples_read)
        if block_cache and number not in cached and (more or in_flight):  # after the last the whole transcript is saved
            content = _CachedBlock(model=checkpoint, windows=windows, texts=tuple(found))
            await block_cache.save_block(number, content.model_dump_json())

    def start(number: int, block: Block) -> asyncio.Future[Sequence[WindowText]]:
        if number in cached:
            content = _CachedBlock.model_validate_json(cached[number])
            if (content.model, content.windows) == (checkpoint, block.windows):
                return asyncio.ensure_future(asyncio.sleep(0, content.texts))
        previous = None if number == 0 else context if sequential else ()
        return asyncio.ensure_future(transcribe_block(block, previous))

    try:
        # Decoding and the VAD keep a core busy: in a thread, a block at a time.
        numbers = count()
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            while in_flight and (len(in_flight) >= max_in_flight() or in_flight[0][2].done()):
                await finish_oldest(more=True)
            in_flight.append((number := next(numbers), block.windows, start(number, block)))
        while in_flight:
            await finish_oldest(more=False)
    finally:
        for _, _, task in in_flight:
            task.cancel()
    return texts
