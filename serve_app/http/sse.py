"""Keep-alive comments in server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT

KEEP_ALIVE_S = 15.0
"""Seconds without an event before a comment is sent. Proxies close idle connections after 60 s (nginx, AWS's load
balancers), some after 30 s. FastAPI's own streams, such as a job's events, use the same interval."""


async def with_keep_alive(events: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Yield the events, and a comment, which clients ignore, whenever none has come for `KEEP_ALIVE_S`."""
    pending: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            pending = asyncio.ensure_future(anext(events, None))
            while not (await asyncio.wait({pending}, timeout=KEEP_ALIVE_S))[0]:
                yield KEEPALIVE_COMMENT
            event = pending.result()
            if event is None:
                return
            yield event
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.wait({pending})
        await events.aclose()
