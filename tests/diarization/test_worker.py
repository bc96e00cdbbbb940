import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from serve_app.diarization.worker import Worker

Heartbeat = Callable[[], None]


async def test_interactive_tasks_run_first() -> None:
    started_threads: list[int] = []
    worker = Worker(lambda: started_threads.append(threading.get_ident()), 60)
    done: list[str] = []
    released = threading.Event()

    def first(heartbeat: Heartbeat) -> str:
        assert started_threads == [threading.get_ident()]
        released.wait(10)
        return "first"

    running = asyncio.create_task(worker.submit(first, False))
    await asyncio.sleep(0.05)
    others = [
        asyncio.create_task(worker.submit(lambda heartbeat, name=name: done.append(name), name == "interactive"))  # type: ignore[misc]
        for name in ("bulk", "more", "interactive")
    ]
    await asyncio.sleep(0.05)
    assert done == []
    released.set()
    await asyncio.gather(*others)
    assert await running == "first"
    assert done == ["interactive", "bulk", "more"]


async def test_cancelled_task_stops_at_its_next_heartbeat() -> None:
    worker = Worker(lambda: None, 60)
    ended = threading.Event()
    steps = 0

    def endless(heartbeat: Heartbeat) -> None:
        nonlocal steps
        try:
            while True:
                heartbeat()
                steps += 1
                time.sleep(0.01)
        finally:
            ended.set()

    task = asyncio.create_task(worker.submit(endless, True))
    waiting = asyncio.create_task(worker.submit(lambda heartbeat: pytest.fail("it was cancelled"), True))
    await asyncio.sleep(0.1)
    waiting.cancel()
    task.cancel()
    assert await asyncio.to_thread(ended.wait, 5)
    assert steps
    assert await worker.submit(lambda heartbeat: "next", False) == "next"


async def test_exceptions_are_raised() -> None:
    worker = Worker(lambda: None, 60)
    with pytest.raises(ZeroDivisionError):
        await worker.submit(lambda heartbeat: 1 / 0, True)
    assert await worker.submit(lambda heartbeat: 1, True) == 1


@pytest.mark.slow
async def test_hanging_task_is_unhealthy() -> None:
    worker = Worker(lambda: None, 0.2)
    await asyncio.sleep(0.4)
    worker.check_health()
    released = threading.Event()
    task = asyncio.create_task(worker.submit(lambda heartbeat: released.wait(10), True))
    await asyncio.sleep(0.05)
    worker.check_health()
    await asyncio.sleep(0.4)
    with pytest.raises(RuntimeError, match="has made no progress"):
        worker.check_health()
    released.set()
    await task
    await asyncio.sleep(0.05)
    worker.check_health()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_failed_start_is_unhealthy() -> None:
    def fail() -> None:
        raise SystemExit

    worker = Worker(fail, 60)
    await asyncio.sleep(0.1)
    with pytest.raises(RuntimeError, match="ended"):
        worker.check_health()
