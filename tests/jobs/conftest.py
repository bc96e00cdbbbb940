"""A manager on a real database, SQLite and PostgreSQL, and a real receiver of webhooks."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from serve_app.fronts.registry import webhook_payloads
from serve_app.jobs import runner
from serve_app.jobs.db.engine import Database
from serve_app.jobs.db.events import EventLog
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.manager import JobManager
from serve_app.jobs.runner import RunJob
from serve_app.net.ssrf import guarded_session
from serve_app.settings import AppSettings, JobSettings, NetworkSettings, WebhookSettings
from serve_app.storage.blobs import BlobStore
from testing.database import open_database
from tests.jobs.helpers import SECRET, OpenManager, Receiver, receiving
from tests.jobs.postgres import MISSING, Server, binaries, server


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
def postgres_binaries() -> Path:
    found = binaries()
    if found is None:
        pytest.skip(MISSING)
    return found


@pytest.fixture(scope="session")
def postgres(postgres_binaries: Path) -> Iterator[Server]:
    with server(postgres_binaries) as running:
        yield running


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/db/jobs.db"


@pytest.fixture
async def postgres_url(postgres: Server) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name}")
    yield str(make_url(postgres.url).set(drivername="postgresql+asyncpg", database=name))
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a new, empty database."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await open_database(database_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database, EventLog(webhook_payloads()))


@pytest.fixture
def runs(database: Database) -> RunStore:
    return RunStore(database, EventLog(webhook_payloads()))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture
def open_manager(settings: AppSettings, database: Database, blobs: BlobStore) -> OpenManager:
    @asynccontextmanager
    async def start(
        run: RunJob, settings: AppSettings = settings, lease_owner: str = "here", database: Database = database
    ) -> AsyncIterator[JobManager]:
        async with guarded_session(settings.network) as session:
            manager = JobManager(settings, database, blobs, run, session, lease_owner, webhook_payloads())
            await manager.start()
            try:
                yield manager
            finally:
                await manager.close()

    return start


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver
