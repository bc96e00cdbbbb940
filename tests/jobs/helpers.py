"""Jobs, a transcript, runs that succeed or block, and a receiver of webhooks, for tests of jobs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.manager import JobManager
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import BlobSource, JobRequest, Priority, UrlSource, Webhook
from serve_app.schemas.transcript import Segment, Transcript
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore

OpenManager = Callable[..., AbstractAsyncContextManager[JobManager]]
"""`async with open_manager(run) as manager` starts a manager and closes it. The next call is a restart."""

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Runs a test that does not depend on the database with SQLite only."""

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
LEASE = timedelta(seconds=30)

TRANSCRIPT = Transcript(
    task="transcribe",
    language="de",
    duration=2.5,
    text="eins zwei – drei",
    segments=(
        Segment(
            start=0.0,
            end=2.5,
            text="eins zwei – drei",
            seek=0,
            tokens=(1, 2, 3),
            temperature=0.0,
            avg_logprob=-0.25,
            compression_ratio=1.5,
            no_speech_prob=0.01,
        ),
    ),
    timings={"decode": 0.5, "whisper": 1.25},
)


def request(
    webhook: Webhook | None = None, url: str = "https://example.com/a.mp3", priority: Priority = "normal"
) -> JobRequest:
    return JobRequest(source=UrlSource(url=url), webhook=webhook, priority=priority)


def queued_job(created_at: datetime = NOW, webhook: Webhook | None = None, **fields: Any) -> Job:
    """Return a job to add."""
    defaults = {"id": uuid4().hex, "state": JobState.QUEUED, "mode": "async", "request": request(webhook)}
    return Job(**defaults | {"created_at": created_at} | fields)


async def claim_job(runs: RunStore, lease_owner: str = "here", now: datetime = NOW) -> Job:
    """Claim the next job."""
    job = await runs.claim(lease_owner, now, now + LEASE)
    assert job is not None
    return job


def with_jobs(settings: AppSettings, **jobs: object) -> AppSettings:
    return settings.model_copy(update={"jobs": settings.jobs.model_copy(update=jobs)})


def with_webhooks(settings: AppSettings, **webhooks: object) -> AppSettings:
    return settings.model_copy(update={"webhooks": settings.webhooks.model_copy(update=webhooks)})


async def upload(blobs: BlobStore, content: bytes = b"RIFF") -> BlobSource:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return await blobs.write(chunks())


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def wait_until(condition: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Wait until a condition is true, or raise TimeoutError."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.005)


async def wait_for_job(manager: JobManager, job: Job) -> Job:
    """Return the job once it has ended."""

    async def terminal() -> bool:
        return (await manager.get(job.id)).state.terminal

    await wait_until(terminal)
    return await manager.get(job.id)


async def wait_for_webhook(manager: JobManager, job: Job, state: str) -> None:
    """Wait until the webhook of the job's end is in this state."""

    async def reached() -> bool:
        return (await manager.get(job.id)).webhook == state

    await wait_until(reached)


async def succeed(job: Job) -> Transcript:
    """Run a job successfully."""
    return TRANSCRIPT


class Gate:
    """Blocks runs until `opened` is set, and records which were started and cancelled."""

    def __init__(self, transcript: Transcript = TRANSCRIPT) -> None:
        self.transcript = transcript
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.opened = asyncio.Event()

    async def __call__(self, job: Job) -> Transcript:
        self.started.append(job.id)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        return self.transcript

    async def wait_for_runs(self, count: int) -> None:
        async def reached() -> bool:
            return len(self.started) >= count

        await wait_until(reached)


@dataclass
class Receiver:
    """An HTTP server that sends the given answers in turn, then 200, and records requests; it waits for `release`."""

    url: str = ""
    answers: list[web.Response] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    release: asyncio.Event | None = None

    async def handle(self, incoming: web.Request) -> web.Response:
        self.received.append((dict(incoming.headers), await incoming.read()))
        if self.release is not None:
            await self.release.wait()
        return self.answers.pop(0) if self.answers else web.Response()

    async def got(self, count: int) -> None:
        async def reached() -> bool:
            return len(self.received) >= count

        await wait_until(reached)


@asynccontextmanager
async def receiving(address: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """Run a receiver on an address of the loopback network."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, 0).start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/done"
    try:
        yield receiver
    finally:
        await runner.cleanup()
