"""A manager on a real database, and a real receiver of webhooks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from serve_app.guard import guarded_session
from serve_app.jobs import manager as manager_module
from serve_app.jobs.blobs import BlobStore
from serve_app.jobs.manager import JobManager, Run
from serve_app.jobs.store import JobStore
from serve_app.settings import AppSettings, JobSettings, NetworkSettings, WebhookSettings
from tests.jobs.helpers import SECRET, Managing, Receiver


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "RETRY_DELAY_S", 0.01)


@pytest.fixture
def settings(tmp_path: Path) -> AppSettings:
    return AppSettings(
        data_dir=tmp_path,
        network=NetworkSettings(allow_private_addresses=True),
        jobs=JobSettings(max_running=2),
        webhooks=WebhookSettings(secret=SecretStr(SECRET), timeout_s=1.0, retry_delays_s=(0, 0.02, 0.02)),
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = await JobStore.open(f"sqlite+aiosqlite:///{tmp_path}/db/jobs.db")
    yield store
    await store.close()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture
def managing(settings: AppSettings, store: JobStore, blobs: BlobStore) -> Managing:
    @asynccontextmanager
    async def open_manager(run: Run, settings: AppSettings = settings) -> AsyncIterator[JobManager]:
        async with guarded_session(settings.network) as session:
            manager = JobManager(settings, store, blobs, run, session)
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
