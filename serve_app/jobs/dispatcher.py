"""A bounded worker loop: acquires due items from a store and runs each to completion."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

POLL_S = 1.0
"""Maximum interval between polls of the store: items added by other processes are found only by polling."""

STOP_S = 10.0
"""Maximum time to wait for cancelled work to end, in seconds."""

logger = logging.getLogger(__name__)


class Item(Protocol):
    """A unit of work, with an id that is unique among the items in progress."""

    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=Item)
ResultT = TypeVar("ResultT")


class Dispatcher(Generic[ItemT, ResultT]):
    """Runs due items, at most `limit` at a time.

    `acquire` returns the next due item, or None. `execute` does the work; only this is ever cancelled. `complete` gets
    the finished task of `execute`, whatever its outcome. `acquire` and `complete` are never cancelled, so that their
    transactions are whole.
    """

    def __init__(
        self,
        acquire: Callable[[], Awaitable[ItemT | None]],
        execute: Callable[[ItemT], Coroutine[Any, Any, ResultT]],
        complete: Callable[[ItemT, "asyncio.Task[ResultT]"], Awaitable[None]],
        limit: int,
    ) -> None:
        self._acquire = acquire
        self._execute = execute
        self._complete = complete
        self._limit = limit
        self._executing: dict[str, asyncio.Task[ResultT]] = {}
        self._completing: set[asyncio.Task[None]] = set()
        self._acquiring = asyncio.Lock()
        self._awake = asyncio.Event()
        self._closing = False
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start acquiring items."""
        self._loop = asyncio.create_task(self._run())

    def wake(self, delay_s: float = 0.0) -> None:
        """Poll the store now, or when an item becomes due."""
        asyncio.get_running_loop().call_later(delay_s, self._awake.set)

    async def ids(self) -> set[str]:
        """Return the ids of the items that were acquired before this call and are not complete."""
        async with self._acquiring:
            return set(self._executing)

    async def stop(self, item_id: str) -> None:
        """Cancel the work on an item, if it is in progress, and wait for its end."""
        async with self._acquiring:
            executing = self._executing.get(item_id)
        if executing is not None:
            executing.cancel()
            await asyncio.wait({executing}, timeout=STOP_S)

    async def close(self) -> None:
        """Stop acquiring items, cancel the work in progress and complete it."""
        self._closing = True
        self._awake.set()
        if self._loop is not None:
            await self._loop
        for executing in self._executing.values():
            executing.cancel()
        if self._completing:
            await asyncio.wait(self._completing, timeout=STOP_S)

    async def _run(self) -> None:
        while not self._closing:
            self._awake.clear()
            try:
                while len(self._executing) < self._limit and not self._closing and await self._start_next():
                    pass
            except Exception:
                logger.exception("could not acquire work from the store; retrying in %g s", POLL_S)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _start_next(self) -> bool:
        async with self._acquiring:
            item = await self._acquire()
            if item is None:
                return False
            if item.id in self._executing:  # lost to another process and acquired again: the earlier work is void
                self._executing[item.id].cancel()
            self._executing[item.id] = executing = asyncio.create_task(self._execute(item))
        completing = asyncio.create_task(self._run_to_completion(item, executing))
        self._completing.add(completing)
        completing.add_done_callback(self._completing.discard)
        return True

    async def _run_to_completion(self, item: ItemT, executing: "asyncio.Task[ResultT]") -> None:
        try:
            await asyncio.wait({executing})
            await self._complete(item, executing)
        except Exception:
            logger.exception("could not complete %s", item.id)
        finally:
            # An item that returned to the queue may already have been acquired again.
            if self._executing.get(item.id) is executing:
                del self._executing[item.id]
            self._awake.set()
