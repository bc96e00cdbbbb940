"""This project as an engine: the running service over HTTP, or its pipeline in one process.

Both take the settings of the service from the environment (`STT_…`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from benchmarks.real_speech.transcript import EngineTranscript, TimedText
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.transcribe import Pipeline
from serve_app.rendering.formats import render
from serve_app.schemas.job import Job
from serve_app.schemas.languages import language_code
from serve_app.schemas.request import JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import final_transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText
from testing.service_process import ServiceProcess, run_service

Transcribe = Callable[[Path, bool], Awaitable[EngineTranscript]]
"""Transcribes a file; the second argument requests word timestamps."""

Options = Mapping[str, Any]
"""Options by their names in `TranscriptionOptions`; others have the service's defaults."""

_START_S = 600.0
"""Timeout for the service to load its model and respond, far longer than on an idle machine."""


def _from_verbose_json(verbose: Mapping[str, Any]) -> EngineTranscript:
    """Convert the service's verbose_json."""
    try:
        language = language_code(verbose["language"])
    except ValueError:  # no speech
        language = None
    segments = tuple(TimedText(s["text"], s["start"], s["end"]) for s in verbose["segments"])
    words = tuple(TimedText(w["word"], w["start"], w["end"]) for w in verbose.get("words", ()))
    return EngineTranscript(verbose["text"], language, segments, words)


@asynccontextmanager
async def in_process(
    checkpoint: Path, threads: int, options: Options, batching: Batching | None = None
) -> AsyncIterator[Transcribe]:
    """Run the transcriber's whole pipeline around one engine, without Ray: it starts in seconds."""
    with TemporaryDirectory() as folder:
        settings = AppSettings(data_dir=Path(folder), model=str(checkpoint), whisper={"threads": threads})
        model = settings.served_models[0]
        blobs = BlobStore(settings.blob_root)
        network = WhisperModel.load(model.checkpoint, model.effective_whisper_settings(settings.whisper))
        engine = Engine(network, batching or Batching())

        async def transcribe(path: Path, words: bool) -> EngineTranscript:
            chosen = TranscriptionOptions(**{**options, **({"timestamps": "word"} if words else {})})

            source = await blobs.write(_once(await asyncio.to_thread(path.read_bytes)))
            job = Job.running(path.name, JobRequest(source=source, options=chosen))
            transcript = await final_transcript(pipeline.transcribe(job))
            verbose = render(transcript, "verbose_json")
            assert isinstance(verbose, dict)
            return _from_verbose_json(verbose)

        async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
            return await engine.transcribe(batch)

        async with guarded_session(settings.network) as session:
            pipeline = Pipeline(settings, blobs, session, transcribe_batch)
            try:
                yield transcribe
            finally:
                engine.close()


@asynccontextmanager
async def over_http(checkpoint: Path, threads: int, options: Options) -> AsyncIterator[Transcribe]:
    """Run the real service on loopback.

    Requests without options use OpenAI's path, as its clients do; those with options are jobs, which accept all
    options.
    """
    with TemporaryDirectory() as folder:
        settings = {"MODEL": str(checkpoint), "WHISPER__THREADS": str(threads)}
        async with run_service(Path(folder), settings) as service:

            async def transcribe_request(path: Path, words: bool) -> EngineTranscript:
                form = _form(path, {"model": "whisper-1", "response_format": "verbose_json"})
                if words:
                    form.add_field("timestamp_granularities[]", "word")
                return _from_verbose_json(await _json(service.http.post("/v1/audio/transcriptions", data=form)))

            async def transcribe_job(path: Path, words: bool) -> EngineTranscript:
                chosen = {**options, **({"timestamps": "word"} if words else {})}
                form = _form(path, {name: str(value) for name, value in chosen.items()})
                waiting = {"Prefer": "wait=600"}
                job = await _json(service.http.post("/v1/jobs", data=form, headers=waiting))
                ended = await service.wait_while(job["id"], "queued", "running")
                if ended["status"] != "succeeded":
                    raise RuntimeError(f"{path.name}: {ended['status']}: {ended['error']}")
                return _from_verbose_json(
                    await _json(service.http.get(f"/v1/jobs/{job['id']}/transcript?format=verbose_json"))
                )

            await _wait_until_ready(service)
            yield transcribe_job if options else transcribe_request


async def _wait_until_ready(service: ServiceProcess) -> None:
    """Wait until the service is ready. Raises RuntimeError if it ends before, or takes too long."""
    tasks = {asyncio.create_task(service.ready.wait()), asyncio.create_task(service.process.wait())}
    _, pending = await asyncio.wait(tasks, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if not service.ready.is_set():
        raise RuntimeError(f"the service did not start within {_START_S:g} s: {[*service.milestones][-1:]}")


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _form(path: Path, fields: Mapping[str, str]) -> aiohttp.FormData:
    form = aiohttp.FormData(fields)
    form.add_field("file", path.read_bytes(), filename=path.name)
    return form


async def _json(request: Any) -> dict[str, Any]:
    """Return the JSON body of a response. Raises RuntimeError with the body for an error status."""
    async with request as answer:
        if answer.status >= 300:
            raise RuntimeError(f"{answer.url}: {answer.status} {await answer.text()}")
        body: dict[str, Any] = await answer.json()
        return body
