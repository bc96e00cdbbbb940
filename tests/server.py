"""The service's FastAPI application on a port of its own: for clients that need a real server."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn

from serve_app.api.app import create_app
from serve_app.service import Service


@pytest.fixture
async def server_url(service: Service) -> AsyncIterator[str]:
    """Where it listens. It runs on the test's own event loop: call blocking clients in a thread or a process."""
    server = uvicorn.Server(uvicorn.Config(create_app(service), host="127.0.0.1", port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server could not start"
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running
