"""Forgetting what nobody needs any more: old jobs, uploads without a job, files of processes that were killed."""

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
"""The shortest interval between purges of old jobs."""

ORPHANS_S = 3600.0
"""The interval between sweeps of abandoned uploads and temporary files."""

SYNC_GRACE_S = 60.0
"""A synchronous job this much over its time limit has lost its client."""

log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps again and again. `forgotten` hears of each job that is gone, `overdue` of those that lost their client."""

    def __init__(
        self,
        settings: AppSettings,
        store: JobStore,
        blobs: BlobStore,
        forgotten: Callable[[Job], Awaitable[None]],
        overdue: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._forgotten = forgotten
        self._overdue = overdue
        self._closing = asyncio.Event()
        self._task: Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End, after the sweep that is being made."""
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
                log.exception("could not sweep the jobs")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(SWEEP_S, self._settings.jobs.retention_s)):
                    await self._closing.wait()

    async def _sweep_jobs(self) -> None:
        now = datetime.now(UTC)
        for job in await self._store.purge(now - timedelta(seconds=self._settings.jobs.retention_s)):
            await self._forgotten(job)
        # Their runs and clients are in other processes, and may outlive this one's restart: not for ever.
        limit = timedelta(seconds=self._settings.limits.request_timeout_s + SYNC_GRACE_S)
        for job in await self._store.overdue(now - limit):
            await self._overdue(job)

    async def _sweep_orphans(self) -> None:
        before = datetime.now(UTC) - timedelta(seconds=self._settings.uploads.sweep_after_s)
        swept = await self._blobs.sweep(before, await self._store.blob_keys())
        swept += await asyncio.to_thread(temp_files.sweep, self._settings.spool_dir, before)
        if swept:
            log.info("%d uploads and temporary files of no job are deleted", swept)
