"""The real service, in process: what most tests need, without Ray."""

import asyncio
import os
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from serve_app.asgi import create_app
from serve_app.models.fetch import ModelUnavailable
from serve_app.models.resolve import resolve_checkpoint, resolve_pipeline
from serve_app.services.transcription import Service
from serve_app.settings import WhisperSettings
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.model.reproducible import enable_reproducible_matmul
from serve_app.whisper.model.whisper_model import WhisperModel
from tests.server import ARGS, MODELS, listening, opened

# Some tests multiply before they load a model.
enable_reproducible_matmul()

# Ray's processes have nice 15 otherwise: while other tests ran, the fault test took twice as long as with this.
os.environ.setdefault("RAY_worker_niceness", "0")

# Test runs that share few cores wait for each other's threads otherwise, for minutes.
torch.set_num_threads(1)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=10)
hypothesis.settings.load_profile("any machine")

pytest_plugins = ["tests.cluster", "tests.s3"]

COSTS = {
    "ray": "needs a Ray cluster",
    "real_model": "needs real weights",
    "slow": "is slow",
}
"""The markers of tests that `--fast` skips, and why."""

NOT_FAST = (
    "benchmarks",
    "chaos",
    "configs",
    "deployments",
    "examples",
    "models",
    "training",
    "http/openapi/test_schema.py",
)
"""Paths that `--fast` does not collect. They import Ray, transformers or schemathesis, or test the tools."""

MARKER_OF_FIXTURE = {
    "running": "ray",
    "whisper_base": "real_model",
    "real_pipeline": "real_model",
    "s3": "slow",
    "postgres": "slow",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help=f"skip a test that {', '.join(COSTS.values())}, do not collect {', '.join(NOT_FAST)}, and run properties "
        "with ten examples",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("fast"):
        hypothesis.settings.load_profile("fast")


def pytest_report_header(config: pytest.Config) -> str:
    return f"--fast: tests/{{{','.join(NOT_FAST)}}} are not collected" if config.getoption("fast") else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave folders out of a fast run, unless they are named on the command line."""
    is_out = str(collection_path.relative_to(config.rootpath / "tests")) in NOT_FAST
    is_named = any(str(collection_path) in str(Path(argument).absolute()) for argument in config.args)
    return True if is_out and config.getoption("fast") and not is_named else None


@pytest.hookimpl(tryfirst=True)  # before -m selects tests and pytest-xdist reads their groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, and assign each file to one worker, all Ray tests to the same one."""
    for item in items:
        for fixture, marker in MARKER_OF_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        costs = [reason for marker, reason in COSTS.items() if item.get_closest_marker(marker)]
        if costs and config.getoption("fast"):
            item.add_marker(pytest.mark.skip(reason=f"--fast: it {costs[0]}"))
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else item.path.stem))
    # Stable. The longest group, that of Ray, starts first, with the tests that have a Ray of their own: beside them the
    # cluster of the others would take part of the cores.
    items.sort(key=lambda item: (not item.get_closest_marker("ray"), "running" in getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def nano() -> WhisperModel:
    return WhisperModel.load("whisper-nano", WhisperSettings(device="cpu", dtype="float32", threads=1))


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    """The real whisper-base, in a folder that test runs share."""
    try:
        return Path(resolve_checkpoint("whisper-base", MODELS))
    except ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_pipeline() -> Path:
    """The diarization pipeline of real weights, in a folder that test runs share."""
    try:
        return Path(resolve_pipeline("pyannote-3.0-campplus", MODELS))
    except ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def engine(nano: WhisperModel) -> Iterator[Engine]:
    engine = Engine(nano)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def engines(engine: Engine) -> Mapping[str, Engine]:
    """By the ids of the models in `args`, for a test module to override."""
    return {"whisper-nano": engine}


@pytest.fixture
def args() -> dict[str, Any]:
    """Settings of the service, for a test module to override."""
    return ARGS


@pytest.fixture
async def service(tmp_path: Path, engines: Mapping[str, Engine], args: dict[str, Any]) -> AsyncIterator[Service]:
    """The whole service around its engines: what the deployments make, in one process."""
    async with opened(tmp_path, engines, args) as service:
        yield service


@pytest.fixture(scope="session")
def apps() -> dict[Hashable, FastAPI]:
    """Applications by the settings that `create_app` reads."""
    return {}


@pytest.fixture
def app(service: Service, apps: dict[Hashable, FastAPI]) -> FastAPI:
    """The FastAPI application. Shared by tests: its first request takes a tenth of a second, to build the routes."""
    settings = service.settings
    key = (settings.fronts, settings.api_keys, settings.limits.max_upload_bytes)
    if key not in apps:
        apps[key] = create_app(service)
    apps[key].state.service = service
    return apps[key]


@pytest.fixture
async def server_url(app: FastAPI) -> AsyncIterator[str]:
    """The address at which it listens, on the test's own event loop: call blocking clients in a thread or a process."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server could not start"
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running


@pytest.fixture(scope="module")
def threaded_url(tmp_path_factory: pytest.TempPathFactory, engines: Mapping[str, Engine]) -> Iterator[str]:
    """Another one, in a thread: for blocking clients."""
    with listening(tmp_path_factory.mktemp("server"), engines, ARGS) as url:
        yield url


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the service's FastAPI application."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
        yield client
