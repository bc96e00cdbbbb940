"""Streams that say something now and then, for the proxies on their way."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT

KEEP_ALIVE_S = 15.0
"""Proxies cut connections on which nothing has come for 60 s (nginx, AWS's balancers), some for 30 s. FastAPI's own
streams, such as a job's events, comment as often."""


async def kept_alive(events: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """The same events, and a comment, which clients pass over, where none has come for a while."""
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            while not (await asyncio.wait({coming}, timeout=KEEP_ALIVE_S))[0]:
                yield KEEPALIVE_COMMENT
            event = coming.result()
            if event is None:
                return
            yield event
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait({coming})
        await events.aclose()
