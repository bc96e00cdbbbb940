"""A manager on a real database, SQLite and PostgreSQL, and a real receiver of webhooks."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from aiohttp import web
from pydantic import SecretStr

from serve_app.guard import guarded_session
from serve_app.jobs import runner
from serve_app.jobs.blobs import BlobStore
from serve_app.jobs.database import Database
from serve_app.jobs.manager import JobManager
from serve_app.jobs.runner import Run
from serve_app.jobs.store import JobStore
from serve_app.settings import AppSettings, JobSettings, NetworkSettings, WebhookSettings
from tests.jobs.helpers import SECRET, Managing, Receiver
from tests.jobs.postgres import MISSING, binaries, server


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RETRY_DELAY_S", 0.01)


@pytest.fixture
def settings(tmp_path: Path) -> AppSettings:
    return AppSettings(
        data_dir=tmp_path,
        network=NetworkSettings(allow_private_addresses=True),
        jobs=JobSettings(max_running=2),
        webhooks=WebhookSettings(secrets=(SecretStr(SECRET),), timeout_s=1.0, retry_delays_s=(0, 0.02, 0.02)),
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    found = binaries()
    if found is None:
        pytest.skip(MISSING)
    with server(found) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database of its own, empty."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/db/jobs.db"
        return
    base, name = request.getfixturevalue("postgres"), f"test_{uuid4().hex}"
    connection = await asyncpg.connect(base)
    await connection.execute(f"CREATE DATABASE {name}")
    yield f"postgresql+asyncpg{base.removeprefix('postgresql').removesuffix('postgres')}{name}"
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture
def managing(settings: AppSettings, database: Database, blobs: BlobStore) -> Managing:
    @asynccontextmanager
    async def open_manager(
        run: Run, settings: AppSettings = settings, holder: str = "here", database: Database = database
    ) -> AsyncIterator[JobManager]:
        async with guarded_session(settings.network) as session:
            manager = JobManager(settings, database, blobs, run, session, holder)
            await manager.start()
            try:
                yield manager
            finally:
                await manager.close()

    return open_manager


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/done"
    yield receiver
    await runner.cleanup()
