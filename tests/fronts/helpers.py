"""Recordings, a web server and polling for tests of the fronts."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web
from aiohttp.test_utils import TestServer

DATA = Path(__file__).parents[1] / "data"
EN = "three one four one five nine"


async def wait_for_job(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Return the job once it has ended."""
    async with asyncio.timeout(60):
        while (job := (await client.get(f"/v1/jobs/{job_id}")).json())["status"] in ("queued", "running"):
            await asyncio.sleep(0.02)
    return job


async def serve(handlers: dict[str, Any]) -> TestServer:
    """Start a web server with these handlers by path."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_route("*", path, handler)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    return server
