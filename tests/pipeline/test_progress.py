import asyncio
from itertools import pairwise

import pytest

from serve_app.pipeline.progress import ProgressReporter


async def test_reports_are_throttled() -> None:
    sent: list[tuple[float, float]] = []
    clock = asyncio.get_running_loop().time

    async def send(progress: float) -> None:
        sent.append((clock(), progress))

    report = ProgressReporter(send, 0.1)
    for step in range(1, 61):
        report(step / 60)
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.25)
    assert sent[0][1] == 1 / 60
    assert sent[-1][1] == 1.0, "the latest report is sent"
    times = [time for time, _ in sent]
    assert all(later - earlier >= 0.099 for earlier, later in pairwise(times))
    assert len(sent) <= 2 + (times[-1] - times[0]) / 0.1
    report(0.5)
    await asyncio.sleep(0)
    assert sent[-1][1] == 0.5, "a report after a pause is sent at once"


@pytest.mark.parametrize("every_s", [0.0, 0.05])
async def test_closed_reporter_sends_nothing(every_s: float) -> None:
    sent: list[float] = []
    released = asyncio.Event()

    async def send(progress: float) -> None:
        sent.append(progress)
        await released.wait()

    report = ProgressReporter(send, every_s)
    report.close()
    report(0.1)
    await asyncio.sleep(0.01)
    report(0.2)
    report.close()
    released.set()
    await asyncio.sleep(0.1)
    assert sent == [0.1]
