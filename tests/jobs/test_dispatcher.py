import asyncio
from asyncio import Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from serve_app.jobs import dispatcher as dispatcher_module
from serve_app.jobs.dispatcher import Dispatcher


@dataclass(frozen=True)
class Errand:
    id: str


class Work:
    """A queue of errands; each is held until it is let go, or cancelled."""

    def __init__(self, *ids: str) -> None:
        self.due = [Errand(each) for each in ids]
        self.broken = 0
        self.let_go: dict[str, asyncio.Event] = {}
        self.completed: list[tuple[str, bool]] = []
        self.changed = asyncio.Condition()

    async def acquire(self) -> Errand | None:
        if self.broken:
            self.broken -= 1
            raise OSError("database away")
        return self.due.pop(0) if self.due else None

    async def execute(self, errand: Errand) -> str:
        self.let_go[errand.id] = asyncio.Event()
        await self.tell()
        await self.let_go[errand.id].wait()
        return errand.id

    async def complete(self, errand: Errand, doing: Task[str]) -> None:
        self.completed.append((errand.id, doing.cancelled()))
        await self.tell()

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until_begun(self, count: int) -> None:
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(lambda: len(self.let_go) == count)

    async def until_completed(self, count: int) -> None:
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(lambda: len(self.completed) == count)


@asynccontextmanager
async def dispatching(work: Work, limit: int = 2) -> AsyncIterator[Dispatcher[Errand, str]]:
    dispatcher = Dispatcher(work.acquire, work.execute, work.complete, limit)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()


async def test_no_more_than_the_limit_is_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 3600)  # a place that gets free is filled at once
    work = Work("a", "b", "c")
    async with dispatching(work) as dispatcher:
        await work.until_begun(2)
        assert await dispatcher.ids() == {"a", "b"}
        work.let_go["a"].set()
        await work.until_begun(3)
        assert await dispatcher.ids() == {"b", "c"}
        assert work.completed == [("a", False)]


async def test_stopping_one_cancels_only_it() -> None:
    work = Work("a", "b")
    async with dispatching(work) as dispatcher:
        await work.until_begun(2)
        await dispatcher.stop("a")
        await dispatcher.stop("unknown")
        await work.until_completed(1)
        assert work.completed == [("a", True)]
        assert await dispatcher.ids() == {"b"}


async def test_stopping_waits_for_the_end() -> None:
    class Slow(Work):
        wound_up = False

        async def execute(self, errand: Errand) -> str:
            try:
                return await super().execute(errand)
            finally:
                await asyncio.sleep(0.05)
                self.wound_up = True

    work = Slow("a")
    async with dispatching(work) as dispatcher:
        await work.until_begun(1)
        await dispatcher.stop("a")
        assert work.wound_up


async def test_an_item_that_is_being_acquired_can_be_stopped() -> None:
    class Hesitant(Work):
        def __init__(self, *ids: str) -> None:
            super().__init__(*ids)
            self.acquiring = asyncio.Event()

        async def acquire(self) -> Errand | None:
            errand = await super().acquire()
            self.acquiring.set()
            await asyncio.sleep(0.05)
            return errand

    work = Hesitant("a")
    async with dispatching(work) as dispatcher:
        await work.acquiring.wait()
        await dispatcher.stop("a")
        await work.until_completed(1)
        assert work.completed == [("a", True)]


async def test_closing_completes_everything_and_acquires_no_more() -> None:
    work = Work("a", "b", "c")
    async with dispatching(work):
        await work.until_begun(2)
    assert sorted(work.completed) == [("a", True), ("b", True)]
    assert work.due == [Errand("c")]


async def test_an_item_added_without_waking_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.01)
    work = Work()
    async with dispatching(work):
        await asyncio.sleep(0.02)
        work.due.append(Errand("a"))
        await work.until_begun(1)


async def test_waking_finds_it_before_the_next_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 3600)
    work = Work()
    async with dispatching(work) as dispatcher:
        await asyncio.sleep(0.02)
        work.due.append(Errand("a"))
        dispatcher.wake(0.01)
        await work.until_begun(1)


async def test_a_store_that_is_away_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.01)
    work = Work("a")
    work.broken = 2
    async with dispatching(work):
        await work.until_begun(1)


async def test_an_item_that_cannot_be_completed_frees_its_place() -> None:
    class Uncompleted(Work):
        async def complete(self, errand: Errand, doing: Task[str]) -> None:
            await super().complete(errand, doing)
            raise OSError("database away")

    work = Uncompleted("a", "b")
    async with dispatching(work, limit=1) as dispatcher:
        await work.until_begun(1)
        work.let_go["a"].set()
        await work.until_begun(2)
        assert await dispatcher.ids() == {"b"}


async def test_an_item_acquired_again_while_it_completes_stays_in_progress() -> None:
    class Again(Work):
        async def complete(self, errand: Errand, doing: Task[str]) -> None:
            if not self.completed:
                # Due and acquired again before its first completion has returned.
                self.let_go.clear()
                self.due.append(errand)
                dispatcher.wake()
                await self.until_begun(1)
            await super().complete(errand, doing)

    work = Again("a")
    async with dispatching(work) as dispatcher:
        await work.until_begun(1)
        work.let_go["a"].set()
        await work.until_completed(1)
        assert await dispatcher.ids() == {"a"}
        await dispatcher.stop("a")
        await work.until_completed(2)
        assert work.completed == [("a", False), ("a", True)]


async def test_an_item_lost_to_another_process_and_back_is_executed_once() -> None:
    work = Work("a", "b")
    async with dispatching(work, limit=3) as dispatcher:
        await work.until_begun(2)
        work.due.append(Errand("a"))  # another process acquired it, and lost it in turn
        dispatcher.wake()
        await work.until_completed(1)
        assert work.completed == [("a", True)]
        assert await dispatcher.ids() == {"a", "b"}
        work.let_go["a"].set()
        await work.until_completed(2)
        assert work.completed == [("a", True), ("a", False)]
