"""The real service, in process: what most tests need, without Ray."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.service import Service
from serve_app.settings import WhisperSettings
from serve_app.whisper.engine import Engine
from serve_app.whisper.model import WhisperModel
from tests.server import ARGS, listening, opened

pytest_plugins = ["tests.cluster", "tests.s3"]


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
    return ARGS


@pytest.fixture
async def service(tmp_path: Path, engine: Engine, args: dict[str, Any]) -> AsyncIterator[Service]:
    """The whole service around one engine: what the deployments make, in one process."""
    async with opened(tmp_path, engine, args) as service:
        yield service


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[str]:
    """The same behind a real HTTP server, for clients that bring their own connections."""
    with listening(tmp_path_factory.mktemp("server"), engine, ARGS) as url:
        yield url


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the service's FastAPI application."""
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
        yield client
