"""The cost of submitting, listing and storing jobs while a thousand jobs are queued."""

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
from tests.jobs.helpers import Gate, OpenManager, request, with_jobs

JOBS = 1000
WEBHOOK = Webhook(url="https://example.com/done", headers={"X-Token": "t" * 100})

SLOW_S = 0.5
"""Ten times the limit on an idle machine, because the tests' machine may be busy."""

GROWTH_BYTES = 30 * 2**20


async def measure(call: Awaitable[Any], seconds: list[float]) -> Any:
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
async def test_a_thousand_jobs(open_manager: OpenManager, settings: AppSettings) -> None:
    limits = settings.limits.model_copy(update={"max_queued_jobs": 4 * JOBS})
    gate = Gate()
    async with open_manager(gate, with_jobs(settings.model_copy(update={"limits": limits}), max_running=2)) as manager:
        concurrent: list[float] = []
        await asyncio.gather(*(measure(manager.submit(request(WEBHOOK)), concurrent) for _ in range(JOBS)))
        before = resident_bytes()

        single: list[float] = []
        for number in range(JOBS):
            await measure(manager.submit(request(WEBHOOK), owner=f"owner{number % 20}"), single)
        growth = resident_bytes() - before

        pages: list[float] = []
        cursor, listed = None, 0
        while True:
            page = await measure(manager.list(None, MAX_PAGE, cursor), pages)
            listed += len(page.data)
            if (cursor := page.next_cursor) is None:
                break
        assert listed == 2 * JOBS
        print(
            f"{JOBS} submits at once: {max(concurrent):.2f} s; single: p95 {p95(single) * 1000:.1f} ms; "
            f"a page of {MAX_PAGE}: p95 {p95(pages) * 1000:.1f} ms; {growth / 2**20:.1f} MiB more after {JOBS} more"
        )
        assert p95(single) < SLOW_S
        assert p95(pages) < SLOW_S
        assert growth < GROWTH_BYTES
        assert len(gate.started) == 2
