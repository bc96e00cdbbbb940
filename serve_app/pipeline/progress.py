"""Throttled progress reports."""

import asyncio
from collections.abc import Awaitable, Callable

Report = Callable[[float], None]
"""Takes the share of the recording that is done, from 0 to 1."""


class ProgressReporter:
    """A `Report` that sends the first report at once, and then the latest one every `every_s` seconds."""

    def __init__(self, send: Callable[[float], Awaitable[None]], every_s: float) -> None:
        self._send = send
        self._every_s = every_s
        self._latest: float | None = None
        self._sending: asyncio.Task[None] | None = None

    def __call__(self, progress: float) -> None:
        self._latest = progress
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._latest is not None:
            latest, self._latest = self._latest, None
            await self._send(latest)
            await asyncio.sleep(self._every_s)

    def close(self) -> None:
        """Drop the reports that were not sent: the work has ended."""
        if self._sending is not None:
            self._sending.cancel()
