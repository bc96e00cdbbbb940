"""Retention: deletes old jobs, uploads without a job, and temporary files of killed processes."""

import asyncio
import logging
import time
from asyncio import Task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from serve_app.jobs.db.jobs import JobStore
from serve_app.schemas.job import Job
from serve_app.settings import AppSettings
from serve_app.storage import temp_files
from serve_app.storage.blobs import BlobStore

SWEEP_S = 60.0
"""Maximum interval between purges of old jobs, in seconds."""

ORPHANS_S = 3600.0
"""Interval between sweeps of abandoned uploads and temporary files, in seconds."""

SYNC_GRACE_S = 60.0
"""Time over its limit, in seconds, after which a running synchronous job is taken to have lost its client."""

logger = logging.getLogger(__name__)


class Sweeper:
    """Applies retention periodically.

    `on_deleted` gets each deleted job, `on_timed_out` each synchronous job that has lost its client.
    """

    def __init__(
        self,
        settings: AppSettings,
        store: JobStore,
        blobs: BlobStore,
        on_deleted: Callable[[Job], Awaitable[None]],
        on_timed_out: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._on_deleted = on_deleted
        self._on_timed_out = on_timed_out
        self._closing = asyncio.Event()
        self._task: Task[None] | None = None

    def start(self) -> None:
        """Start sweeping."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop after the current sweep."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        orphans_at = time.monotonic()
        while not self._closing.is_set():
            try:
                if time.monotonic() >= orphans_at:
                    orphans_at += ORPHANS_S
                    await self._sweep_orphans()
                await self._sweep_jobs()
            except Exception:
                logger.exception("could not apply retention; retrying")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(SWEEP_S, self._settings.jobs.retention_s)):
                    await self._closing.wait()

    async def _sweep_jobs(self) -> None:
        now = datetime.now(UTC)
        for job in await self._store.purge(now - timedelta(seconds=self._settings.jobs.retention_s)):
            await self._on_deleted(job)
        # Their runs and clients are in other processes and may outlive a restart of this one, but not the time limit.
        limit = timedelta(seconds=self._settings.limits.request_timeout_s + SYNC_GRACE_S)
        for job in await self._store.timed_out(now - limit):
            await self._on_timed_out(job)

    async def _sweep_orphans(self) -> None:
        before = datetime.now(UTC) - timedelta(seconds=self._settings.uploads.sweep_after_s)
        swept = await self._blobs.sweep(before, await self._store.active_blob_keys())
        swept += await asyncio.to_thread(temp_files.sweep, self._settings.spool_dir, before)
        if swept:
            logger.info("deleted %d uploads and temporary files without a job", swept)
