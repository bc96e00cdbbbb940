"""A well-behaved client of the jobs API: it repeats calls while the service is unavailable, with the same key."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random

TIMEOUT_S = 30
"""Timeout of one attempt. The service itself waits up to 15 s for a process that is restarting."""


class Refused(RuntimeError):
    """A response that a retry would not change."""


class Unavailable(RuntimeError):
    """A response that asks for a retry."""


class Client:
    """Calls that are repeated until there is a final response; `responses` counts all of them by status."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.responses: Counter[str] = Counter()
        self._http = http

    async def submit(self, audio: bytes, key: str, webhook: str | None = None) -> str:
        """Submit a job and return its id; `key` is the submission's Idempotency-Key. Raises Refused."""

        def send() -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
            form = aiohttp.FormData({"webhook": f'{{"url": "{webhook}"}}'} if webhook else {})
            form.add_field("file", audio, filename="audio")
            return self._http.post("/v1/jobs", data=form, headers={"Idempotency-Key": key})

        return str((await self._call(send))["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Fetch a job. Raises Refused."""
        return await self._call(lambda: self._http.get(f"/v1/jobs/{job_id}"))

    async def text(self, job_id: str) -> str:
        """Fetch the text of a job. Raises Refused."""
        response = await self._call(lambda: self._http.get(f"/v1/jobs/{job_id}/transcript"))
        return str(response["text"])

    async def wait_until_ended(self, job_id: str) -> dict[str, Any]:
        """Poll a job until it has ended. Raises Refused."""
        while (job := await self.job(job_id))["status"] in ("queued", "running"):
            await asyncio.sleep(0.25)
        return job

    async def list_jobs(self) -> set[str]:
        """Return the ids of all jobs. Raises Refused."""
        ids, query = set(), {"limit": "100"}
        while True:
            page = await self._call(lambda: self._http.get("/v1/jobs", params=query))
            ids |= {job["id"] for job in page["data"]}
            if page["next_cursor"] is None:
                return ids
            query["cursor"] = page["next_cursor"]

    async def is_ready(self) -> bool:
        """Return whether all deployments of the service are ready."""
        try:
            async with self._http.get("/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _call(self, send: Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]]) -> Any:
        def count_error(state: RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            if not isinstance(error, Unavailable):
                self.responses[type(error).__name__] += 1

        retry = retry_if_exception_type((Unavailable, aiohttp.ClientError, TimeoutError))
        async for attempt in AsyncRetrying(retry=retry, wait=wait_random(0.25, 1), before_sleep=count_error):
            with attempt:
                async with send() as response:
                    self.responses[str(response.status)] += 1
                    if response.status >= 500 or response.status in (408, 429):
                        raise Unavailable(f"{response.status} {(await response.text())[:200]}")
                    if response.status >= 400:
                        raise Refused(f"{response.status} {(await response.text())[:200]}")
                    found = await response.json()
        return found
