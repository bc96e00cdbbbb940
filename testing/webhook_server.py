"""An HTTP server on loopback that receives webhooks."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def serve_webhooks(receive: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Pass POST requests to `receive` until the block ends; yield the URL."""
    application = web.Application(client_max_size=2**30)
    application.router.add_post("/", receive)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()
