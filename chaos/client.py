"""A client of the jobs API that does as it should: asks again while the service is away, with the same key."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random

TIMEOUT_S = 30
"""One try at a call. The service itself waits up to 15 s for a process that is away."""


class Refused(RuntimeError):
    """An answer that asking again would not change."""


class Away(RuntimeError):
    """An answer that asks to come again."""


class Client:
    """Calls that end with an answer, however often they must be made; `answers` are all of them."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.answers: Counter[str] = Counter()
        self._http = http

    async def submit(self, audio: bytes, key: str, webhook: str | None = None) -> str:
        """The id of the job; `key` is the submission's own. Raises Refused."""

        def send() -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
            form = aiohttp.FormData({"webhook": f'{{"url": "{webhook}"}}'} if webhook else {})
            form.add_field("file", audio, filename="audio")
            return self._http.post("/v1/jobs", data=form, headers={"Idempotency-Key": key})

        return str((await self._answer(send))["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Raises Refused."""
        return await self._answer(lambda: self._http.get(f"/v1/jobs/{job_id}"))

    async def text(self, job_id: str) -> str:
        """What the job has heard. Raises Refused."""
        answer = await self._answer(lambda: self._http.get(f"/v1/jobs/{job_id}/transcript"))
        return str(answer["text"])

    async def ended(self, job_id: str) -> dict[str, Any]:
        """The job when it has ended. Raises Refused."""
        while (job := await self.job(job_id))["status"] in ("queued", "running"):
            await asyncio.sleep(0.25)
        return job

    async def listed(self) -> set[str]:
        """The ids of all jobs. Raises Refused."""
        ids, query = set(), {"limit": "100"}
        while True:
            page = await self._answer(lambda: self._http.get("/v1/jobs", params=query))
            ids |= {job["id"] for job in page["data"]}
            if page["next_cursor"] is None:
                return ids
            query["cursor"] = page["next_cursor"]

    async def ready(self) -> bool:
        """Whether the whole service is there."""
        try:
            async with self._http.get("/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _answer(self, send: Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]]) -> Any:
        def note(state: RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            if not isinstance(error, Away):
                self.answers[type(error).__name__] += 1

        again = retry_if_exception_type((Away, aiohttp.ClientError, TimeoutError))
        async for attempt in AsyncRetrying(retry=again, wait=wait_random(0.25, 1), before_sleep=note):
            with attempt:
                async with send() as answer:
                    self.answers[str(answer.status)] += 1
                    if answer.status >= 500 or answer.status in (408, 429):
                        raise Away(f"{answer.status} {(await answer.text())[:200]}")
                    if answer.status >= 400:
                        raise Refused(f"{answer.status} {(await answer.text())[:200]}")
                    found = await answer.json()
        return found
