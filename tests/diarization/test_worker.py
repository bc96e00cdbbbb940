import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from serve_app.diarization.worker import Worker

Beat = Callable[[], None]


async def test_one_at_a_time_and_interactive_first() -> None:
    begun: list[int] = []
    worker = Worker(lambda: begun.append(threading.get_ident()), 60)
    done: list[str] = []
    go = threading.Event()

    def first(beat: Beat) -> str:
        assert begun == [threading.get_ident()]
        go.wait(10)
        return "first"

    running = asyncio.create_task(worker.submit(first, False))
    await asyncio.sleep(0.05)
    others = [
        asyncio.create_task(worker.submit(lambda beat, name=name: done.append(name), name == "interactive"))  # type: ignore[misc]
        for name in ("bulk", "more", "interactive")
    ]
    await asyncio.sleep(0.05)
    assert done == []
    go.set()
    await asyncio.gather(*others)
    assert await running == "first"
    assert done == ["interactive", "bulk", "more"]


async def test_work_that_nobody_waits_for_ends_at_its_next_step() -> None:
    worker = Worker(lambda: None, 60)
    ended = threading.Event()
    steps = 0

    def endless(beat: Beat) -> None:
        nonlocal steps
        try:
            while True:
                beat()
                steps += 1
                time.sleep(0.01)
        finally:
            ended.set()

    task = asyncio.create_task(worker.submit(endless, True))
    waiting = asyncio.create_task(worker.submit(lambda beat: pytest.fail("it was cancelled"), True))
    await asyncio.sleep(0.1)
    waiting.cancel()
    task.cancel()
    assert await asyncio.to_thread(ended.wait, 5)
    assert steps
    assert await worker.submit(lambda beat: "next", False) == "next"


async def test_what_work_raises_is_raised() -> None:
    worker = Worker(lambda: None, 60)
    with pytest.raises(ZeroDivisionError):
        await worker.submit(lambda beat: 1 / 0, True)
    assert await worker.submit(lambda beat: 1, True) == 1


async def test_a_step_that_hangs_is_noticed_and_idling_is_not() -> None:
    worker = Worker(lambda: None, 0.2)
    await asyncio.sleep(0.4)
    worker.check_health()
    go = threading.Event()
    task = asyncio.create_task(worker.submit(lambda beat: go.wait(10), True))
    await asyncio.sleep(0.05)
    worker.check_health()
    await asyncio.sleep(0.4)
    with pytest.raises(RuntimeError, match="has made no progress"):
        worker.check_health()
    go.set()
    await task
    await asyncio.sleep(0.05)
    worker.check_health()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_could_not_begin_is_noticed() -> None:
    def fail() -> None:
        raise SystemExit

    worker = Worker(fail, 60)
    await asyncio.sleep(0.1)
    with pytest.raises(RuntimeError, match="ended"):
        worker.check_health()
