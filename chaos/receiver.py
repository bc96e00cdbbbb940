"""A receiver of webhooks that fails a third of its calls, and remembers what came."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import standardwebhooks
from aiohttp import web

from testing.service_process import receiving
from chaos.checks import Event

FAILING = 1 / 3
"""The share of calls that fail, one of these ways."""

FAILURES = ("500", "503 with Retry-After", "connection closed", "too slow")


class Receiver:
    """Listens on loopback; `events` are those of each job, in order."""

    def __init__(self, secret: str, timeout_s: float, rng: random.Random) -> None:
        self.answers: Counter[str] = Counter()
        self.forged: list[str] = []
        self.events: defaultdict[str, list[Event]] = defaultdict(list)
        self.url = ""
        self._taken: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._verifier = standardwebhooks.Webhook(secret)
        self._slow_s = timeout_s + 1
        self._rng = rng

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take calls until the block ends."""
        async with receiving(self._receive) as self.url:
            yield

    async def taken(self, job_id: str) -> None:
        """Return when a job's webhook has been taken."""
        await self._taken[job_id].wait()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            # Its own strict JSON, and the headers' names in lower case.
            message = self._verifier.verify(body, {name.lower(): value for name, value in request.headers.items()})
        except standardwebhooks.WebhookVerificationError as error:
            self.forged.append(f"{error}: {dict(request.headers)}")
            return web.Response(status=400)
        answer = self._rng.choice(FAILURES) if self._rng.random() < FAILING else "200"
        self.answers[answer] += 1
        job, taken = message["data"], answer == "200"
        text = (job["transcript"] or {}).get("text")
        self.events[job["id"]].append(Event(request.headers["webhook-id"], message["type"], text, body, taken))
        if taken:
            self._taken[job["id"]].set()
        return await self._answered(request, answer)

    async def _answered(self, request: web.Request, answer: str) -> web.Response:
        match answer:
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
