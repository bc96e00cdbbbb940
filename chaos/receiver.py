"""A webhook receiver that fails a third of its calls and records all of them."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import standardwebhooks
from aiohttp import web

from chaos.checks import Event
from testing.webhook_server import serve_webhooks

FAILURE_SHARE = 1 / 3
"""The share of calls that fail, each in one of the ways below."""

FAILURES = ("500", "503 with Retry-After", "connection closed", "too slow")


class Receiver:
    """Receives webhooks on loopback; `events` are those of each job, in order."""

    def __init__(self, secret: str, timeout_s: float, rng: random.Random) -> None:
        self.responses: Counter[str] = Counter()
        self.invalid_webhooks: list[str] = []
        self.events: defaultdict[str, list[Event]] = defaultdict(list)
        self.url = ""
        self._acknowledged: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._verifier = standardwebhooks.Webhook(secret)
        self._slow_s = timeout_s + 1
        self._rng = rng

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Receive webhooks until the block ends."""
        async with serve_webhooks(self._receive) as self.url:
            yield

    async def wait_until_acknowledged(self, job_id: str) -> None:
        """Return when a job's webhook has been acknowledged."""
        await self._acknowledged[job_id].wait()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            # The library needs the raw body and lower-case header names.
            message = self._verifier.verify(body, {name.lower(): value for name, value in request.headers.items()})
        except standardwebhooks.WebhookVerificationError as error:
            self.invalid_webhooks.append(f"{error}: {dict(request.headers)}")
            return web.Response(status=400)
        response = self._rng.choice(FAILURES) if self._rng.random() < FAILURE_SHARE else "200"
        self.responses[response] += 1
        job, acknowledged = message["data"], response == "200"
        text = (job["transcript"] or {}).get("text")
        self.events[job["id"]].append(Event(request.headers["webhook-id"], message["type"], text, body, acknowledged))
        if acknowledged:
            self._acknowledged[job["id"]].set()
        return await self._respond(request, response)

    async def _respond(self, request: web.Request, response: str) -> web.Response:
        match response:
            case "500":
                return web.Response(status=500)
            case "503 with Retry-After":
                return web.Response(status=503, headers={"Retry-After": "1"})
            case "connection closed":
                assert request.transport is not None
                request.transport.abort()
            case "too slow":
                await asyncio.sleep(self._slow_s)
        return web.Response()
