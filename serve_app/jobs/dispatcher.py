"""Taking due work from the store and seeing it through, so much at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

POLL_S = 1.0
"""The store is asked at least this often: what another process left there has no other way to be seen."""

STOP_S = 10.0
"""Seconds that cancelled work may take to end before it is abandoned."""

log = logging.getLogger(__name__)


class Item(Protocol):
    """Something to do, under an id that no other item in work has."""

    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=Item)
ResultT = TypeVar("ResultT")


class Dispatcher(Generic[ItemT, ResultT]):
    """`take`s what is due (None: nothing), `do`es at most `limit` at a time, and `settle`s each.

    Only `do` is ever cancelled. `settle` gets the finished task, whichever way it ended; it and
    `take` run to their end, so that no transaction is torn.
    """

    def __init__(
        self,
        take: Callable[[], Awaitable[ItemT | None]],
        do: Callable[[ItemT], Coroutine[Any, Any, ResultT]],
        settle: Callable[[ItemT, "asyncio.Task[ResultT]"], Awaitable[None]],
        limit: int,
    ) -> None:
        self._take = take
        self._do = do
        self._settle = settle
        self._limit = limit
        self._doing: dict[str, asyncio.Task[ResultT]] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._taking = asyncio.Lock()
        self._awake = asyncio.Event()
        self._closing = False
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take work."""
        self._loop = asyncio.create_task(self._run())

    def wake(self, delay_s: float = 0.0) -> None:
        """Look for work, now or when something will be due."""
        asyncio.get_running_loop().call_later(delay_s, self._awake.set)

    async def ids(self) -> set[str]:
        """Return the jobs that were acquired before this call and have not been settled."""
        async with self._taking:
            return set(self._doing)

    async def stop(self, item_id: str) -> None:
        """Cancel the work on one item, if there is any, and wait for its end."""
        async with self._taking:
            doing = self._doing.get(item_id)
        if doing is not None:
            doing.cancel()
            await asyncio.wait({doing}, timeout=STOP_S)

    async def close(self) -> None:
        """Take no more, cancel what is in work, and settle it."""
        self._closing = True
        self._awake.set()
        if self._loop is not None:
            await self._loop
        for doing in self._doing.values():
            doing.cancel()
        if self._settling:
            await asyncio.wait(self._settling, timeout=STOP_S)

    async def _run(self) -> None:
        while not self._closing:
            self._awake.clear()
            try:
                while len(self._doing) < self._limit and not self._closing and await self._begin():
                    pass
            except Exception:
                log.exception("could not take work from the store; trying again in %g s", POLL_S)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _begin(self) -> bool:
        async with self._taking:
            item = await self._take()
            if item is None:
                return False
            if item.id in self._doing:  # taken from here, and back already: the work on it before is void
                self._doing[item.id].cancel()
            self._doing[item.id] = doing = asyncio.create_task(self._do(item))
        settling = asyncio.create_task(self._see_through(item, doing))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        return True

    async def _see_through(self, item: ItemT, doing: "asyncio.Task[ResultT]") -> None:
        try:
            await asyncio.wait({doing})
            await self._settle(item, doing)
        except Exception:
            log.exception("could not settle %s", item.id)
        finally:
            # What was put back to be done again may already be taken again.
            if self._doing.get(item.id) is doing:
                del self._doing[item.id]
            self._awake.set()
