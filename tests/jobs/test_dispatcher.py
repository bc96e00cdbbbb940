import asyncio
from asyncio import Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from serve_app.jobs import dispatcher as dispatcher_module
from serve_app.jobs.dispatcher import Dispatcher


@dataclass(frozen=True)
class Item:
    id: str


class WorkQueue:
    """A queue whose items run until they are released or cancelled."""

    def __init__(self, *ids: str) -> None:
        self.due = [Item(each) for each in ids]
        self.failures = 0
        self.released: dict[str, asyncio.Event] = {}
        self.completed: list[tuple[str, bool]] = []
        self.changed = asyncio.Condition()

    async def acquire(self) -> Item | None:
        if self.failures:
            self.failures -= 1
            raise OSError("database away")
        return self.due.pop(0) if self.due else None

    async def execute(self, item: Item) -> str:
        self.released[item.id] = asyncio.Event()
        await self.notify()
        await self.released[item.id].wait()
        return item.id

    async def complete(self, item: Item, task: Task[str]) -> None:
        self.completed.append((item.id, task.cancelled()))
        await self.notify()

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def wait_until_started(self, count: int) -> None:
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(lambda: len(self.released) == count)

    async def wait_until_completed(self, count: int) -> None:
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(lambda: len(self.completed) == count)


@asynccontextmanager
async def run_dispatcher(queue: WorkQueue, limit: int = 2) -> AsyncIterator[Dispatcher[Item, str]]:
    dispatcher = Dispatcher(queue.acquire, queue.execute, queue.complete, limit)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()


async def test_concurrency_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 3600)  # a free slot is filled without polling
    queue = WorkQueue("a", "b", "c")
    async with run_dispatcher(queue) as dispatcher:
        await queue.wait_until_started(2)
        assert await dispatcher.ids() == {"a", "b"}
        queue.released["a"].set()
        await queue.wait_until_started(3)
        assert await dispatcher.ids() == {"b", "c"}
        assert queue.completed == [("a", False)]


async def test_stop_cancels_one_item() -> None:
    queue = WorkQueue("a", "b")
    async with run_dispatcher(queue) as dispatcher:
        await queue.wait_until_started(2)
        await dispatcher.stop("a")
        await dispatcher.stop("unknown")
        await queue.wait_until_completed(1)
        assert queue.completed == [("a", True)]
        assert await dispatcher.ids() == {"b"}


async def test_stop_waits_for_cleanup() -> None:
    class SlowToStop(WorkQueue):
        cleaned_up = False

        async def execute(self, item: Item) -> str:
            try:
                return await super().execute(item)
            finally:
                await asyncio.sleep(0.05)
                self.cleaned_up = True

    queue = SlowToStop("a")
    async with run_dispatcher(queue) as dispatcher:
        await queue.wait_until_started(1)
        await dispatcher.stop("a")
        assert queue.cleaned_up


async def test_stop_while_acquiring() -> None:
    class SlowToAcquire(WorkQueue):
        def __init__(self, *ids: str) -> None:
            super().__init__(*ids)
            self.acquiring = asyncio.Event()

        async def acquire(self) -> Item | None:
            item = await super().acquire()
            self.acquiring.set()
            await asyncio.sleep(0.05)
            return item

    queue = SlowToAcquire("a")
    async with run_dispatcher(queue) as dispatcher:
        await queue.acquiring.wait()
        await dispatcher.stop("a")
        await queue.wait_until_completed(1)
        assert queue.completed == [("a", True)]


async def test_close_completes_items_and_acquires_no_more() -> None:
    queue = WorkQueue("a", "b", "c")
    async with run_dispatcher(queue):
        await queue.wait_until_started(2)
    assert sorted(queue.completed) == [("a", True), ("b", True)]
    assert queue.due == [Item("c")]


async def test_items_are_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.01)
    queue = WorkQueue()
    async with run_dispatcher(queue):
        await asyncio.sleep(0.02)
        queue.due.append(Item("a"))
        await queue.wait_until_started(1)


async def test_wake_acquires_before_the_next_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 3600)
    queue = WorkQueue()
    async with run_dispatcher(queue) as dispatcher:
        await asyncio.sleep(0.02)
        queue.due.append(Item("a"))
        dispatcher.wake(0.01)
        await queue.wait_until_started(1)


async def test_failed_acquire_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.01)
    queue = WorkQueue("a")
    queue.failures = 2
    async with run_dispatcher(queue):
        await queue.wait_until_started(1)


async def test_failed_completion_frees_the_slot() -> None:
    class FailsToComplete(WorkQueue):
        async def complete(self, item: Item, task: Task[str]) -> None:
            await super().complete(item, task)
            raise OSError("database away")

    queue = FailsToComplete("a", "b")
    async with run_dispatcher(queue, limit=1) as dispatcher:
        await queue.wait_until_started(1)
        queue.released["a"].set()
        await queue.wait_until_started(2)
        assert await dispatcher.ids() == {"b"}


async def test_item_acquired_again_during_its_completion() -> None:
    class AcquiredAgain(WorkQueue):
        async def complete(self, item: Item, task: Task[str]) -> None:
            if not self.completed:
                # Due and acquired again before its first completion has returned.
                self.released.clear()
                self.due.append(item)
                dispatcher.wake()
                await self.wait_until_started(1)
            await super().complete(item, task)

    queue = AcquiredAgain("a")
    async with run_dispatcher(queue) as dispatcher:
        await queue.wait_until_started(1)
        queue.released["a"].set()
        await queue.wait_until_completed(1)
        assert await dispatcher.ids() == {"a"}
        await dispatcher.stop("a")
        await queue.wait_until_completed(2)
        assert queue.completed == [("a", False), ("a", True)]


async def test_item_acquired_again_during_its_execution() -> None:
    queue = WorkQueue("a", "b")
    async with run_dispatcher(queue, limit=3) as dispatcher:
        await queue.wait_until_started(2)
        queue.due.append(Item("a"))  # acquired by another process, and lost by it
        dispatcher.wake()
        await queue.wait_until_completed(1)
        assert queue.completed == [("a", True)]
        assert await dispatcher.ids() == {"a", "b"}
        queue.released["a"].set()
        await queue.wait_until_completed(2)
        assert queue.completed == [("a", True), ("a", False)]
