"""A thousand jobs wait: what it costs to submit one more, to list them, and to keep them."""

import asyncio
import gc
import time
from collections.abc import Awaitable
from pathlib import Path
from resource import getpagesize
from statistics import quantiles
from typing import Any

import pytest

from serve_app.schemas.job import MAX_PAGE
from serve_app.schemas.request import Webhook
from serve_app.settings import AppSettings
from tests.jobs.helpers import Gate, Managing, request, with_jobs

JOBS = 1000
WEBHOOK = Webhook(url="https://example.com/done", headers={"X-Token": "t" * 100})

SLOW_S = 0.5
"""Ten times what is asked of a machine of its own: the tests' may be busy."""

GROWTH_BYTES = 30 * 2**20


async def timed(call: Awaitable[Any], seconds: list[float]) -> Any:
    clock = time.monotonic()
    answer = await call
    seconds.append(time.monotonic() - clock)
    return answer


def p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


@pytest.mark.slow
async def test_a_thousand_jobs(managing: Managing, settings: AppSettings) -> None:
    limits = settings.limits.model_copy(update={"max_queued_jobs": 4 * JOBS})
    gate = Gate()
    async with managing(gate, with_jobs(settings.model_copy(update={"limits": limits}), max_running=2)) as manager:
        first: list[float] = []
        await asyncio.gather(*(timed(manager.submit(request(WEBHOOK)), first) for _ in range(JOBS)))
        before = resident_bytes()

        alone: list[float] = []
        for number in range(JOBS):
            await timed(manager.submit(request(WEBHOOK), owner=f"owner{number % 20}"), alone)
        growth = resident_bytes() - before

        pages: list[float] = []
        cursor, listed = None, 0
        while True:
            page = await timed(manager.list(None, MAX_PAGE, cursor), pages)
            listed += len(page.data)
            if (cursor := page.next_cursor) is None:
                break
        assert listed == 2 * JOBS
        print(
            f"{JOBS} submits at once: {max(first):.2f} s in all; one after another: p95 {p95(alone) * 1000:.1f} ms; "
            f"a page of {MAX_PAGE}: p95 {p95(pages) * 1000:.1f} ms; {growth / 2**20:.1f} MiB more after {JOBS} more"
        )
        assert p95(alone) < SLOW_S
        assert p95(pages) < SLOW_S
        assert growth < GROWTH_BYTES
        assert len(gate.begun) == 2
