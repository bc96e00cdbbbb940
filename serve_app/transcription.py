"""One recording from source to transcript: fetch, decode, cut, recognise, merge.

The transcriber's whole flow, without Ray: `recognise` is how a block of windows gets its text.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from serve_app.audio.decode import Decoding
from serve_app.audio.fetch import fetch
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import Block, Window, cut
from serve_app.jobs.blobs import BlobStore
from serve_app.merge import merge
from serve_app.models import longest_window_s
from serve_app.options import BlobSource, JobRequest, UrlSource
from serve_app.settings import AppSettings
from serve_app.transcript import Transcript
from serve_app.whisper.text import WindowText, handed_on

Recognise = Callable[[Block, tuple[int, ...] | None], Awaitable[Sequence[WindowText]]]
"""Takes a block, and the tokens of what was said before it: null at the beginning."""

Report = Callable[[float], None]
"""Takes the share of the recording that is done, 0 to 1."""


async def transcribe(
    request: JobRequest,
    settings: AppSettings,
    blobs: BlobStore,
    session: aiohttp.ClientSession,
    recognise: Recognise,
    report: Report,
) -> Transcript:
    """The transcript of one recording.

    `session` is a `guarded_session`. Raises AudioError and TooLarge for the recording, and
    what `recognise` raises. Leaves nothing behind.
    """
    await asyncio.to_thread(settings.spool_dir.mkdir, parents=True, exist_ok=True)
    started = time.perf_counter()
    with TemporaryDirectory(dir=settings.spool_dir) as folder:
        path = Path(folder) / "audio"
        warnings = await _obtain(request, path, settings, blobs, session)
        fetched = time.perf_counter()
        decoding = Decoding(path, settings.limits, "url" if isinstance(request.source, UrlSource) else "file")
        texts = await _recognise(decoding, settings, request.options.condition_on_previous_text, recognise, report)
    transcript = merge(request.options.task, decoding.samples, texts)
    timings = {"fetch": round(fetched - started, 3), "transcribe": round(time.perf_counter() - fetched, 3)}
    return transcript.model_copy(update={"warnings": (*warnings, *decoding.warnings), "timings": timings})


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


async def _recognise(
    decoding: Decoding, settings: AppSettings, in_turn: bool, recognise: Recognise, report: Report
) -> list[tuple[Window, WindowText]]:
    """The text of every window, in order; blocks are out at the replicas while later ones are decoded.

    `in_turn`: each block needs the text of the one before.
    """
    most = 1 if in_turn else settings.windows.blocks_in_flight
    max_s = settings.windows.max_s or longest_window_s(settings.model)
    blocks = cut(decoding, SpeechDetector(), settings.vad, max_s, settings.windows.block_s)
    out: deque[tuple[tuple[Window, ...], asyncio.Task[Sequence[WindowText]]]] = deque()
    texts: list[tuple[Window, WindowText]] = []
    said: tuple[int, ...] = ()
    first = True

    async def take() -> None:
        nonlocal said
        windows, task = out.popleft()
        texts.extend(zip(windows, await task, strict=True))
        said = reduce(handed_on, (text for _, text in texts[-len(windows) :]), said)
        report(decoding.share_read * windows[-1].end / decoding.samples)

    try:
        # Decoding and the VAD keep a core busy: in a thread, a block at a time.
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            if len(out) == most:
                await take()
            previous = None if first else said if in_turn else ()
            out.append((block.windows, asyncio.ensure_future(recognise(block, previous))))
            first = False
        while out:
            await take()
    finally:
        for _, task in out:
            task.cancel()
    return texts
