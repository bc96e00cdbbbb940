"""The real service in one process, around one engine: as an object, and behind an HTTP server."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from serve_app.asgi import create_app
from serve_app.fronts.common.front import Front
from serve_app.fronts.registry import FRONTS, webhook_payloads
from serve_app.jobs.manager import JobManager
from serve_app.models import model_source
from serve_app.net.ssrf import guarded_session
from serve_app.observability.metrics import Metrics
from serve_app.pipeline.transcribe import Pipeline
from serve_app.pipeline.transcribe_job import transcribe_job
from serve_app.schemas.job import Job
from serve_app.schemas.request import DiarizationOptions
from serve_app.schemas.transcript import TranscriptStream, Turn, final_transcript
from serve_app.services.transcription import Service
from serve_app.settings import AppSettings, DiarizationSettings, VadSettings
from serve_app.storage.blobs import BlobStore
from serve_app.storage.signed_uploads import Uploads, signing_key
from serve_app.whisper.model.card import ModelCard
from serve_app.whisper.protocol import TranscriptionEngine, WindowBatch
from serve_app.whisper.window_text import WindowText
from testing.database import open_database

ARGS: dict[str, Any] = {"network": {"allow_private_addresses": True}}
"""Settings of the service in tests."""

MODELS = Path(__file__).parent.parent / "data/models"
"""Where the service keeps its models too, started in this folder: test runs share it."""


def german(folder: Path) -> Path:
    """A second checkpoint, in `folder`: whisper-nano that knows no language but German."""
    for file in Path(model_source("whisper-nano")).iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "generation_config.json").read_text())
    config["lang_to_id"] = {"<|de|>": config["lang_to_id"]["<|de|>"]}
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@asynccontextmanager
async def opened(
    folder: Path,
    engines: Mapping[str, TranscriptionEngine],
    args: dict[str, Any],
    fronts: Sequence[Front] = FRONTS,
    metrics: Metrics | None = None,
) -> AsyncIterator[Service]:
    """The whole service around an engine for each model's id: what the deployments make, in one process."""
    settings = AppSettings(
        **{"model": "whisper-nano", "data_dir": folder} | args
    )  # the embedded one: nothing is fetched
    database = await open_database(settings.database_url)

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        return await engines[model].transcribe(batch)

    async def diarize(pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
        return await asyncio.to_thread(_speaker_pipeline(settings.diarization).diarize, pcm, options)

    def transcribe(job: Job, stream: bool = False) -> TranscriptStream:
        return transcribe_job(pipeline, jobs, job, stream)

    async def ready() -> bool:
        return True

    async with guarded_session(settings.network) as session:
        pipeline = Pipeline(
            settings,
            BlobStore(settings.blob_root),
            session,
            transcribe_batch,
            diarize if settings.diarization.pipeline else None,
            metrics,
        )
        blobs = BlobStore(settings.blob_root, settings.limits.max_upload_bytes)
        jobs = JobManager(
            settings,
            database,
            blobs,
            lambda job: final_transcript(transcribe(job)),
            session,
            "here",
            webhook_payloads(fronts),
            metrics,
        )
        await jobs.start()
        uploads = Uploads(blobs, signing_key(settings), settings.uploads.expires_s)
        cards = {model.id: ModelCard.load(model.checkpoint, model.id) for model in settings.served_models}
        yield Service(settings, cards, blobs, uploads, jobs, transcribe, ready)
        await jobs.close()
    await database.close()


@cache
def _speaker_pipeline(settings: DiarizationSettings) -> Any:
    from serve_app.diarization.pipeline import SpeakerPipeline

    return SpeakerPipeline.load(settings, VadSettings(), MODELS)


@contextmanager
def listening(folder: Path, engines: Mapping[str, TranscriptionEngine], args: dict[str, Any]) -> Iterator[str]:
    """The same behind uvicorn, in a thread of its own: its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = threading.Event()
        servers: list[uvicorn.Server] = []

        async def serve() -> None:
            async with opened(folder, engines, args) as service:
                servers.append(uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning")))
                started.set()
                await servers[0].serve(sockets=[listener])

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        # It listens already: who calls before it accepts waits.
        assert started.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        servers[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()
