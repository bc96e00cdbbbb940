"""The real service, in process: what most tests need, without Ray."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.audio.windows import Block
from serve_app.guard import guarded_session
from serve_app.jobs.blobs import BlobStore
from serve_app.jobs.database import Database
from serve_app.jobs.manager import JobManager
from serve_app.jobs.models import Job
from serve_app.jobs.uploads import Uploads, signing_key
from serve_app.service import Service
from serve_app.settings import AppSettings, WhisperSettings
from serve_app.transcript import Tell, Transcript
from serve_app.transcription import transcribe
from serve_app.whisper.block import recognise
from serve_app.whisper.card import ModelCard
from serve_app.whisper.engine import Engine
from serve_app.whisper.model import WhisperModel
from serve_app.whisper.text import WindowText

pytest_plugins = ["tests.cluster", "tests.s3", "tests.server"]


@pytest.fixture(scope="session")
def nano() -> WhisperModel:
    return WhisperModel.load("whisper-nano", WhisperSettings(device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def engine(nano: WhisperModel) -> Iterator[Engine]:
    engine = Engine(nano)
    yield engine
    engine.close()


@pytest.fixture
def args() -> dict[str, Any]:
    """Settings of the service, for a test module to override."""
    return {"network": {"allow_private_addresses": True}}


@pytest.fixture
async def service(tmp_path: Path, engine: Engine, args: dict[str, Any]) -> AsyncIterator[Service]:
    """The whole service around one engine: what the deployments make, in one process."""
    settings = AppSettings(data_dir=tmp_path, **args)
    blobs = BlobStore(settings.blob_root)
    database = await Database.open(settings.database_url)

    async with guarded_session(settings.network) as session:

        async def run(job: Job, tell: Tell | None = None) -> Transcript:
            async def through_engine(block: Block, previous: tuple[int, ...] | None) -> Sequence[WindowText]:
                spans = [(w.start - block.start, w.end - block.start) for w in block.windows]
                options, sync = job.request.options, job.mode == "sync"
                return await recognise(engine, block.pcm, spans, options, job.id, interactive=sync, previous=previous)

            def report(fraction: float) -> None:
                asyncio.ensure_future(jobs.progress(job.id, job.attempts, fraction))  # noqa: RUF006

            return await transcribe(job.request, settings, blobs, session, through_engine, report, tell=tell)

        async def ready() -> bool:
            return True

        jobs = JobManager(settings, database, blobs, run, session, "here")
        await jobs.start()
        uploads = Uploads(blobs, signing_key(settings), settings.uploads.expires_s)
        yield Service(settings, ModelCard.load("whisper-nano"), blobs, uploads, jobs, run, ready)
        await jobs.close()
    await database.close()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the service's FastAPI application."""
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
        yield client
