"""Transcribe one recording: fetch, decode, cut into blocks of windows, transcribe them, diarize, merge.

The pipeline of a transcriber replica, without Ray: the calls to the Whisper and diarizer replicas are passed in.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import reduce
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from serve_app.audio.decode import AudioDecoder
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import Block, Window, cut_into_blocks
from serve_app.diarization.assign import assign
from serve_app.errors import NotFound, Unavailable
from serve_app.models import longest_window_s
from serve_app.net.download import fetch
from serve_app.observability.metrics import AUDIO_SECONDS, STAGE_SECONDS, Metrics, NoMetrics
from serve_app.pipeline.block_cache import BlockCache, CachedBlocks
from serve_app.pipeline.coverage import coverage_warning, speech_without_text
from serve_app.pipeline.diarize import DiarizationResult, Diarize, check_channels, diarize_recording
from serve_app.pipeline.merge import DeltaBuilder, merge
from serve_app.pipeline.progress import Report
from serve_app.schemas.job import Job
from serve_app.schemas.request import BlobSource, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import Transcript, TranscriptStream
from serve_app.settings import AppSettings, ServedModel
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText, next_prompt_tokens

TranscribeBatch = Callable[[str, WindowBatch], Awaitable[Sequence[WindowText]]]
"""Takes the id of a served model and a batch; returns the text of each window of the batch, in order."""

BlockTexts = list[tuple[Window, WindowText]]
"""The windows of a block, each with its text."""


class Pipeline:
    """Transcribes recordings. A transcriber replica makes one.

    `session` is a `guarded_session`. `diarize` is null where diarization is off.
    """

    def __init__(
        self,
        settings: AppSettings,
        blobs: BlobStore,
        session: aiohttp.ClientSession,
        transcribe_batch: TranscribeBatch,
        diarize: Diarize | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._blobs = blobs
        self._session = session
        self._transcribe_batch = transcribe_batch
        self._diarize = diarize
        self._metrics = metrics or NoMetrics()

    async def transcribe(
        self,
        job: Job,
        stream: bool = False,
        report: Report = lambda progress: None,
        block_cache: BlockCache | None = None,
    ) -> TranscriptStream:
        """Yield the transcript of a job's recording; with `stream`, its text deltas before.

        With `stream` every window is a block of its own, and its text is yielded as soon as it and all text before
        it are known. Blocks that are in `block_cache` are not transcribed again. If the options ask for speakers, the
        whole recording is diarized meanwhile; failures of that are warnings. Temporary files are removed.
        Raises AudioError and TooLarge for the recording, Unavailable if the model is not served here, and what
        `transcribe_batch` and `block_cache` raise.
        """
        model, options, spool_dir = self._served_model(job), job.request.options, self._settings.spool_dir
        await asyncio.to_thread(spool_dir.mkdir, parents=True, exist_ok=True)
        started = time.perf_counter()
        with TemporaryDirectory(dir=spool_dir) as folder:
            path = Path(folder) / "audio"
            warnings = await self._obtain(job, path)
            fetched = time.perf_counter()
            decoding = AudioDecoder(
                path, self._settings.limits, "url" if isinstance(job.request.source, UrlSource) else "file"
            )
            async with self._diarize_meanwhile(job, path) as diarization:
                texts: BlockTexts = []
                deltas = DeltaBuilder()
                async with aclosing(self._transcribe_blocks(job, model, decoding, stream, block_cache)) as blocks:
                    async for block in blocks:
                        texts += block
                        report(decoding.fraction_read * block[-1][0].end / decoding.samples_read)
                        if stream:
                            for delta in filter(None, (deltas.next(text) for _, text in block)):
                                yield delta
                timings = {"fetch": round(fetched - started, 3), "transcribe": round(time.perf_counter() - fetched, 3)}
                speakers = await diarization if diarization else None
        transcript = merge(options.task, decoding.samples_read, texts)
        warnings += decoding.warnings
        if warning := coverage_warning(speech_without_text(texts)):
            warnings.append(warning)
        if speakers:
            warnings += speakers.warnings
            timings["diarize"] = speakers.seconds
            transcript = await _assign_speakers(transcript, speakers, options)
        self._metrics.increment(AUDIO_SECONDS, transcript.duration, model=model.id)
        for stage, seconds in timings.items():
            self._metrics.observe(STAGE_SECONDS, seconds, model=model.id, stage=stage)
        yield transcript.model_copy(update={"warnings": tuple(warnings), "timings": timings})

    async def _obtain(self, job: Job, path: Path) -> list[str]:
        """Download or copy the recording to `path`. Return warnings."""
        source = job.request.source
        if isinstance(source, UrlSource):
            settings = self._settings
            warning = await fetch(self._session, source.url, path, settings.limits, settings.network.max_redirects)
            return [warning] if warning else []
        assert isinstance(source, BlobSource), "the service makes a blob of every upload"
        await self._blobs.copy(source.key, path)
        return []

    @asynccontextmanager
    async def _diarize_meanwhile(self, job: Job, path: Path) -> AsyncIterator[asyncio.Task[DiarizationResult] | None]:
        """Start diarization if requested; it is cancelled when the context ends."""
        options = job.request.options.diarization
        if options is None:
            yield None
            return
        assert self._diarize is not None, "the service refuses diarization when it is off"
        await asyncio.to_thread(check_channels, path, options, self._settings)
        task = asyncio.create_task(diarize_recording(path, options, job.is_interactive, self._settings, self._diarize))
        try:
            yield task
        finally:
            task.cancel()

    async def _transcribe_blocks(
        self, job: Job, model: ServedModel, decoding: AudioDecoder, stream: bool, block_cache: BlockCache | None
    ) -> AsyncGenerator[BlockTexts]:
        """Yield the texts of each block, in order. Blocks are transcribed while later ones are decoded."""
        options = job.request.options.for_decoding
        is_sequential = options.condition_on_previous_text  # each block needs the text of the one before it
        blocks = self._cut(decoding, model, options, stream)
        cached = await CachedBlocks.load(block_cache, model.checkpoint)
        in_flight: deque[tuple[int, tuple[Window, ...], asyncio.Future[Sequence[WindowText]]]] = deque()
        finished = 0
        context: tuple[int, ...] = ()

        def max_in_flight() -> int:
            if is_sequential:
                return 1
            if stream:  # few at first: windows that are decoded together are done together
                return min(self._settings.windows.streamed_in_flight, 2 + 2 * finished)
            return self._settings.windows.blocks_in_flight

        def start(number: int, block: Block) -> asyncio.Future[Sequence[WindowText]]:
            texts = cached.find(number, block.windows)
            if texts is not None:
                return asyncio.ensure_future(asyncio.sleep(0, texts))
            previous = None if number == 0 else context if is_sequential else ()
            windows = tuple(block.pcm_windows)
            batch = WindowBatch(block.pcm, windows, options, job.id, job.is_interactive, previous)
            return asyncio.ensure_future(self._transcribe_batch(model.id, batch))

        async def finish_oldest(is_last: bool = False) -> BlockTexts:
            nonlocal finished, context
            number, windows, future = in_flight.popleft()
            texts = await future
            pairs = list(zip(windows, texts, strict=True))
            finished += 1
            context = reduce(next_prompt_tokens, texts, context)
            if not is_last:  # after the last block the whole transcript is saved
                await cached.save(number, windows, texts)
            return pairs

        try:
            # Decoding and the VAD keep a core busy: in a thread, a block at a time.
            for number in count():
                if (block := await asyncio.to_thread(next, blocks, None)) is None:
                    break
                while in_flight and (len(in_flight) >= max_in_flight() or in_flight[0][-1].done()):
                    yield await finish_oldest()
                in_flight.append((number, block.windows, start(number, block)))
            while in_flight:
                yield await finish_oldest(is_last=len(in_flight) == 1)
        finally:
            for *_, future in in_flight:
                future.cancel()

    def _served_model(self, job: Job) -> ServedModel:
        try:
            return self._settings.served_model(job.request.model)
        except NotFound as error:
            # It was accepted by an ingress with other settings: one of the two is just being replaced.
            raise Unavailable(error.message, error.param, error.code) from None

    def _cut(
        self, decoding: AudioDecoder, model: ServedModel, options: TranscriptionOptions, stream: bool
    ) -> Iterator[Block]:
        """Cut a recording into blocks: of one window each with `stream`."""
        settings = self._settings
        vad = settings.vad.model_copy(update=options.vad.model_dump(exclude_none=True) if options.vad else {})
        max_window_s = settings.windows.max_s or longest_window_s(model.checkpoint)
        block_s = 0.0 if stream else settings.windows.block_s
        return cut_into_blocks(decoding, SpeechDetector(), vad, max_window_s, block_s)


async def _assign_speakers(
    transcript: Transcript, result: DiarizationResult, options: TranscriptionOptions
) -> Transcript:
    """Return the transcript with its speakers, and without words that were not requested."""
    if result.turns is not None:
        transcript = await asyncio.to_thread(assign, transcript, result.turns)
    return transcript if options.timestamps == "word" else transcript.wordless
