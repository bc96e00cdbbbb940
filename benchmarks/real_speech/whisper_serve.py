"""This project as an engine: the running service asked over HTTP, or its transcription in one process.

Both take the settings of the service from the environment (`STT_…`), as the service does.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from testing.service_process import Service, running
from benchmarks.real_speech.transcript import Heard, Timed
from serve_app.audio.windows import Block
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.transcribe import transcribe
from serve_app.rendering.formats import render
from serve_app.schemas.languages import language_code
from serve_app.schemas.request import JobRequest, TranscriptionOptions
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.engine.batch import transcribe_windows
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.window_text import WindowText

Hear = Callable[[Path, bool], Awaitable[Heard]]
"""Takes a recording and whether its words' times are wanted."""

Options = Mapping[str, Any]
"""Of a transcription, by their names in `TranscriptionOptions`; those that are absent are the service's defaults."""

_START_S = 600.0
"""For the service to load its model and answer: far longer than it takes on a machine that is not busy."""


def _heard(verbose: Mapping[str, Any]) -> Heard:
    """From the service's verbose_json."""
    try:
        language = language_code(verbose["language"])
    except ValueError:  # nothing was said
        language = None
    segments = tuple(Timed(s["text"], s["start"], s["end"]) for s in verbose["segments"])
    words = tuple(Timed(w["word"], w["start"], w["end"]) for w in verbose.get("words", ()))
    return Heard(verbose["text"], language, segments, words)


@asynccontextmanager
async def in_process(
    checkpoint: Path, threads: int, options: Options, batching: Batching | None = None
) -> AsyncIterator[Hear]:
    """The transcriber's whole flow around one engine, without Ray: it starts in seconds."""
    with TemporaryDirectory() as folder:
        settings = AppSettings(data_dir=Path(folder), model=str(checkpoint), whisper={"threads": threads})
        model = settings.served_models[0]
        blobs = BlobStore(settings.blob_root)
        network = WhisperModel.load(model.checkpoint, model.effective_whisper_settings(settings.whisper))
        engine = Engine(network, batching or Batching())

        async def hear(path: Path, words: bool) -> Heard:
            asked = TranscriptionOptions(**{**options, **({"timestamps": "word"} if words else {})})

            async def decode(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
                return await transcribe_windows(
                    engine, block.pcm, block.pcm_windows, asked, path.name, interactive=True, previous=previous
                )

            source = await blobs.write(_once(await asyncio.to_thread(path.read_bytes)))
            request = JobRequest(source=source, options=asked)
            transcript = await transcribe(request, model, settings, blobs, session, decode, lambda share: None)
            verbose = render(transcript, "verbose_json")
            assert isinstance(verbose, dict)
            return _heard(verbose)

        async with guarded_session(settings.network) as session:
            try:
                yield hear
            finally:
                engine.close()


@asynccontextmanager
async def over_http(checkpoint: Path, threads: int, options: Options) -> AsyncIterator[Hear]:
    """The real service on loopback.

    Without options through OpenAI's path, as its clients use it; with them as a job, whose form takes them all.
    """
    with TemporaryDirectory() as folder:
        settings = {"MODEL": str(checkpoint), "WHISPER__THREADS": str(threads)}
        async with running(Path(folder), settings) as service:

            async def by_openai(path: Path, words: bool) -> Heard:
                form = _form(path, {"model": "whisper-1", "response_format": "verbose_json"})
                if words:
                    form.add_field("timestamp_granularities[]", "word")
                return _heard(await _json(service.http.post("/v1/audio/transcriptions", data=form)))

            async def by_job(path: Path, words: bool) -> Heard:
                asked = {**options, **({"timestamps": "word"} if words else {})}
                form = _form(path, {name: str(value) for name, value in asked.items()})
                waiting = {"Prefer": "wait=600"}
                job = await _json(service.http.post("/v1/jobs", data=form, headers=waiting))
                ended = await service.when_not(job["id"], "queued", "running")
                if ended["status"] != "succeeded":
                    raise RuntimeError(f"{path.name}: {ended['status']}: {ended['error']}")
                return _heard(await _json(service.http.get(f"/v1/jobs/{job['id']}/transcript?format=verbose_json")))

            await _started(service)
            yield by_job if options else by_openai


async def _started(service: Service) -> None:
    """Waits until the service is ready. Raises RuntimeError when it ends before, or takes too long."""
    points = {asyncio.create_task(service.ready.wait()), asyncio.create_task(service.process.wait())}
    _, open_points = await asyncio.wait(points, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
    for point in open_points:
        point.cancel()
    if not service.ready.is_set():
        raise RuntimeError(f"the service did not start within {_START_S:g} s: {[*service.points][-1:]}")


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _form(path: Path, fields: Mapping[str, str]) -> aiohttp.FormData:
    form = aiohttp.FormData(fields)
    form.add_field("file", path.read_bytes(), filename=path.name)
    return form


async def _json(asked: Any) -> dict[str, Any]:
    """The body of an answer. Raises RuntimeError with it when it is a refusal."""
    async with asked as answer:
        if answer.status >= 300:
            raise RuntimeError(f"{answer.url}: {answer.status} {await answer.text()}")
        body: dict[str, Any] = await answer.json()
        return body
