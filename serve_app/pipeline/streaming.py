"""Turn a coroutine with a callback into an async iterator."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def stream_results(work: Callable[[Callable[[T], None]], Coroutine[Any, Any, R]]) -> AsyncIterator[T | R]:
    """Yield the items that `work` passes to its callback, then its result.

    Raises what it raises. Closing the iterator, or cancelling its consumer, cancels the work.
    """
    told: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
    task = asyncio.create_task(work(lambda item: told.put_nowait((item,))))
    task.add_done_callback(lambda _: told.put_nowait(None))
    try:
        while (item := await told.get()) is not None:
            yield item[0]
        yield await task
    finally:
        task.cancel()
