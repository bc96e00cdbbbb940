"""One recording from source to transcript: fetch, decode, cut, recognise, merge.

The transcriber's whole flow, without Ray: `recognise` is how a block of windows gets its text.
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

from serve_app.audio.decode import Decoding
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import Block, Window, cut
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
"""Takes a block, and the tokens of what was said before it: null at the beginning."""

Report = Callable[[float], None]
"""Takes the share of the recording that is done, 0 to 1."""


class BlockCache(Protocol):
    """Keeps the texts of blocks, as words of its own, for a run that may have to begin again."""

    async def kept(self) -> Mapping[int, str]:
        """Return the cached blocks of earlier runs by their numbers."""

    async def keep(self, number: int, content: str) -> None:
        """Keep a block. What this raises ends the run."""


class _CachedBlock(StrictModel):
    """A block's texts, and what they are texts of: cuts may differ between machines, and models between runs."""

    model: str
    windows: tuple[Window, ...]
    texts: tuple[WindowText, ...]


async def transcribe(
    request: JobRequest,
    model: ServedModel,
    settings: AppSettings,
    blobs: BlobStore,
    session: aiohttp.ClientSession,
    recognise: BlockTranscriber,
    report: Report,
    keeper: BlockCache | None = None,
    tell: OnDelta | None = None,
    diarize: Diarize | None = None,
) -> Transcript:
    """The transcript of one recording, whose blocks `recognise` has recognised by `model`.

    `session` is a `guarded_session`. With a `keeper`, only blocks that it has not kept are recognised. With `tell`,
    every window is a block of its own, so that its text can be told as soon as it and all before it are known.
    `diarize` hears the whole recording meanwhile, if the options ask for speakers; what fails there is a warning.
    Raises AudioError and TooLarge for the recording, and what `recognise` and `keeper` raise. Leaves nothing behind.
    """
    await asyncio.to_thread(settings.spool_dir.mkdir, parents=True, exist_ok=True)
    started = time.perf_counter()
    with TemporaryDirectory(dir=settings.spool_dir) as folder:
        path = Path(folder) / "audio"
        warnings = await _obtain(request, path, settings, blobs, session)
        fetched = time.perf_counter()
        decoding = Decoding(path, settings.limits, "url" if isinstance(request.source, UrlSource) else "file")
        async with _beside(path, request.options, settings, diarize) as found:
            texts = await _transcribe_blocks(
                decoding, model.checkpoint, settings, request.options.for_decoding, recognise, report, keeper, tell
            )
            timings = {"fetch": round(fetched - started, 3), "transcribe": round(time.perf_counter() - fetched, 3)}
            apart = await found if found else None
    transcript = merge(request.options.task, decoding.samples, texts)
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
    """The speakers, while the block goes on, if they are asked for; given up when it ends without them."""
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
    """Bring the recording to `path`; what a user should know of it."""
    if isinstance(request.source, UrlSource):
        warning = await fetch(session, request.source.url, path, settings.limits, settings.network.max_redirects)
        return [warning] if warning else []
    assert isinstance(request.source, BlobSource), "the service makes a blob of every upload"
    await blobs.copy(request.source.key, path)
    return []


async def _transcribe_blocks(
    decoding: Decoding,
    checkpoint: str,
    settings: AppSettings,
    options: TranscriptionOptions,
    recognise: BlockTranscriber,
    report: Report,
    keeper: BlockCache | None,
    tell: OnDelta | None,
) -> list[tuple[Window, WindowText]]:
    """The text of every window, in order; blocks are out at the replicas while later ones are decoded."""
    in_turn = options.condition_on_previous_text  # each block needs the text of the one before
    block_s = 0.0 if tell else settings.windows.block_s
    max_s = settings.windows.max_s or longest_window_s(checkpoint)
    vad = settings.vad.model_copy(update=options.vad.model_dump(exclude_none=True) if options.vad else {})
    blocks = cut(decoding, SpeechDetector(), vad, max_s, block_s)
    saying = DeltaBuilder()
    kept = await keeper.kept() if keeper else {}
    out: deque[tuple[int, tuple[Window, ...], asyncio.Future[Sequence[WindowText]]]] = deque()
    texts: list[tuple[Window, WindowText]] = []
    said: tuple[int, ...] = ()

    def most() -> int:
        """Blocks that may be out now."""
        if in_turn:
            return 1
        if tell:  # few at first: windows that are decoded together are done together
            return min(settings.windows.streamed_in_flight, 2 + 2 * len(texts))
        return settings.windows.blocks_in_flight

    async def take(more: bool) -> None:
        nonlocal said
        number, windows, task = out.popleft()
        found = await task
        texts.extend(zip(windows, found, strict=True))
        if tell:
            for piece in filter(None, map(saying.next, found)):
                tell(piece)
        said = reduce(next_prompt_tokens, (text for _, text in texts[-len(windows) :]), said)
        report(decoding.share_read * windows[-1].end / decoding.samples)
        if keeper and number not in kept and (more or out):  # after the last the whole transcript is kept
            content = _CachedBlock(model=checkpoint, windows=windows, texts=tuple(found))
            await keeper.keep(number, content.model_dump_json())

    def begin(number: int, block: Block) -> asyncio.Future[Sequence[WindowText]]:
        if number in kept:
            content = _CachedBlock.model_validate_json(kept[number])
            if (content.model, content.windows) == (checkpoint, block.windows):
                return asyncio.ensure_future(asyncio.sleep(0, content.texts))
        previous = None if number == 0 else said if in_turn else ()
        return asyncio.ensure_future(recognise(block, previous))

    try:
        # Decoding and the VAD keep a core busy: in a thread, a block at a time.
        numbers = count()
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            while out and (len(out) >= most() or out[0][2].done()):
                await take(more=True)
            out.append((number := next(numbers), block.windows, begin(number, block)))
        while out:
            await take(more=False)
    finally:
        for _, _, task in out:
            task.cancel()
    return texts
