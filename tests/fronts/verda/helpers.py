"""A web server outside the service, and requests for the status and result of an inference."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from aiohttp import web

from tests.fronts.helpers import DATA

ID = "X-Inference-Id"


class Site:
    """Serves a recording at `/audio`, and at `/slow` once `released`; receives webhooks at `/hook`."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.released = asyncio.Event()
        self.url: Callable[[str], str] = str

    async def audio(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "en.mp3")

    async def slow(self, request: web.Request) -> web.FileResponse:
        await self.released.wait()
        return await self.audio(request)

    async def hook(self, request: web.Request) -> web.Response:
        await self.received.put(await request.json())
        return web.Response()


async def wait_until_done(client: httpx.AsyncClient, inference_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (state := await get_status(client, inference_id))["Status"] in (0, 1, 2):
            await asyncio.sleep(0.02)
    return state


async def get_status(client: httpx.AsyncClient, inference_id: str) -> dict[str, Any]:
    answer = await client.get("/status/whisper", headers={ID: inference_id})
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    assert (state["Id"], set(state)) == (inference_id, {"Id", "Error", "Status"})
    return state


async def get_result(client: httpx.AsyncClient, inference_id: str) -> httpx.Response:
    return await client.get("/result/whisper", headers={ID: inference_id})
