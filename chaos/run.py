"""The two acts: parts of the service killed while jobs come and go, then all of it at once."""

import asyncio
import base64
import json
import os
import random
import secrets
import signal
import time
from asyncio import Task
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from chaos.client import TIMEOUT_S, Client, Refused
from chaos.client_session import look_back, see_through
from chaos.receiver import Receiver
from chaos.recordings import Recording, recordings
from chaos.service import Service
from chaos.checks import Outcome, Submission, counts
from chaos.processes import KINDS, pick

SECRET = "whsec_" + base64.b64encode(b"the fault test signs with this one").decode()
WEBHOOK_TIMEOUT_S = 2.0
RETRY_DELAYS_S = (0, 1, 2) + (4,) * 17
"""Short, so that a run is; many, because the receiver fails a third of the calls and kills cost others."""

SETTINGS = {
    "MODEL": "whisper-nano",  # quick, and there without a network
    "WEBHOOKS__SECRETS": json.dumps([SECRET]),
    "WEBHOOKS__TIMEOUT_S": str(WEBHOOK_TIMEOUT_S),
    "WEBHOOKS__RETRY_DELAYS_S": json.dumps(RETRY_DELAYS_S),
    "JOBS__LEASE_S": "10",  # after the whole cluster was killed, its jobs are run again when this is over
    # On a slow machine few jobs end between two kills, and those that run when one comes are lost together.
    "JOBS__MAX_RUNNING": "4",
    "JOBS__MAX_LOSSES": "100",  # no job is to blame for its losses here
}

OPEN_JOBS = 24
"""Jobs that the clients have open at a time: more than the service runs, so that others wait in its queue."""

ARRIVAL_S = 0.5
"""Between two jobs of the first act."""

PAUSE_S = (1.0, 3.0)
"""Between two kills."""

ACT_ONE, NEARLY, ENOUGH = 0.6, 0.8, 0.5
"""Shares: the jobs of the first act, those of them that have ended when the second begins, and the jobs of the second
that are accepted when the whole cluster is killed."""

READY_S = 180.0
"""To start, on a machine that does other things too."""

TELL_S = 5.0
"""Between two lines of progress."""

LOOK_BACK_S = 45.0
"""To ask for the jobs once more at the end."""


class EndedEarly(RuntimeError):
    """The run can't go on."""


@dataclass(frozen=True)
class Plan:
    """How much of it: jobs; the seconds that none may end, and of everything; the seed of all chance."""

    jobs: int
    stall_s: float
    limit_s: float
    seed: int


class Run:
    """One run of a plan, in a folder of its own; `tell` hears what happens."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._rng = random.Random(plan.seed)
        # Of this run alone: should another service come to listen on its port, it refuses these clients.
        self._key = secrets.token_hex(16)
        self._service = Service(folder, SETTINGS | {"API_KEYS": json.dumps([self._key])})
        self._receiver = Receiver(SECRET, WEBHOOK_TIMEOUT_S, random.Random(plan.seed + 1))
        self._undisturbed_ids: set[str] = set()
        self._jobs: list[Task[None]] = []
        self._outcome = Outcome()

    async def __call__(self) -> Outcome:
        """Both acts; every process of the service is gone when this ends, however it ends."""
        start = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        http = aiohttp.ClientSession(
            f"http://127.0.0.1:{self._service.port}",
            timeout=timeout,
            headers={"Authorization": f"Bearer {self._key}"},
        )
        client = Client(http)
        self._outcome.http, self._outcome.receiver = client.answers, self._receiver.answers
        self._outcome.forged = self._receiver.forged
        try:
            async with http, self._receiver.listening():
                try:
                    async with asyncio.timeout(self._plan.limit_s):
                        await self._acts(client)
                except TimeoutError:
                    self._outcome.ended_early = f"not done within {self._plan.limit_s:g} s"
                except EndedEarly as error:
                    self._outcome.ended_early = str(error)
                await self._look_back(client)
        finally:
            self._service.kill()
        self._outcome.seconds = time.monotonic() - start
        return self._outcome

    async def _acts(self, client: Client) -> None:
        self._service.start()
        await self._ready(client)
        self._service.parts()  # their rest begins
        known = await self._undisturbed(client, recordings())
        chosen = [self._rng.choice(known) for _ in range(self._plan.jobs)]
        submissions = [Submission(number, one.name, text) for number, (one, text) in enumerate(chosen)]
        self._outcome.submissions = submissions
        first = round(ACT_ONE * len(submissions))
        open_jobs = asyncio.Semaphore(OPEN_JOBS)

        async def job(number: int, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            await see_through(client, self._receiver, submissions[number], chosen[number][0].audio, open_jobs)

        self._jobs = [asyncio.create_task(job(number, number * ARRIVAL_S)) for number in range(first)]
        killing = asyncio.create_task(self._kill_parts())
        try:
            await self._until(lambda: killing.done() or self._act_one_is_over())
            if not killing.cancel():
                killing.result()  # it never ends by itself: this raises
            self._jobs += [asyncio.create_task(job(number, 0)) for number in range(first, len(submissions))]
            rest = submissions[first:]
            await self._until(lambda: sum(one.job_id is not None for one in rest) >= ENOUGH * len(rest))
            self._outcome.interrupted = sum(one.job_id is not None and not one.reported for one in submissions)
            self._tell(f"killed the whole cluster, {self._service.kill()} processes; starting it again")
            self._service.start()
            await self._until(lambda: self._ended() == len(self._jobs))
        finally:
            for task in (*self._jobs, killing):
                task.cancel()
            await asyncio.gather(*self._jobs, killing, return_exceptions=True)

    async def _ready(self, client: Client) -> None:
        start = time.monotonic()
        while not await client.ready():
            self._service.check()
            if time.monotonic() - start > READY_S:
                raise EndedEarly(f"the service was not ready within {READY_S:g} s")
            await asyncio.sleep(0.5)
        self._tell(f"the service is ready after {time.monotonic() - start:.1f} s")

    async def _undisturbed(self, client: Client, todo: Sequence[Recording]) -> list[tuple[Recording, str]]:
        """Every recording with its text, as the service writes it when nothing is killed."""

        async def text(recording: Recording) -> str:
            job_id = await client.submit(recording.audio, f"undisturbed {recording.name}")
            self._undisturbed_ids.add(job_id)
            job = await client.ended(job_id)
            text = await client.text(job_id) if job["status"] == "succeeded" else f"{job['error']}"
            if recording.said not in text:
                raise EndedEarly(f"undisturbed, {recording.name} is {text!r}: without {recording.said!r}")
            return text

        start = time.monotonic()
        texts = await asyncio.gather(*map(text, todo))
        self._tell(f"{len(todo)} recordings transcribed undisturbed in {time.monotonic() - start:.1f} s")
        return list(zip(todo, texts, strict=True))

    async def _kill_parts(self) -> None:
        ended: dict[str, int] = {}  # jobs, when one of a kind was killed last
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))
            # However slow the machine: some job must end before the next one of the same kind is killed.
            parts = [part for part in self._service.parts() if self._ended() > ended.get(part.kind.name, -1)]
            victim = pick(parts, self._outcome.killed, time.monotonic(), self._rng)
            if victim is not None:
                with suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGKILL)
                    ended[victim.kind.name] = self._ended()
                    self._outcome.killed[victim.kind.name] += 1
                    self._tell(f"killed {victim.kind.name} (process {victim.pid})")

    def _ended(self) -> int:
        return sum(job.done() for job in self._jobs)

    def _act_one_is_over(self) -> bool:
        return self._ended() >= NEARLY * len(self._jobs) and all(self._outcome.killed[kind.name] for kind in KINDS)

    async def _until(self, over: Callable[[], bool]) -> None:
        """Return when it is. Raises EndedEarly when jobs no longer end, and what a job's client raised."""
        ended, since, told = -1, time.monotonic(), 0.0
        while not over():
            now = time.monotonic()
            for job in self._jobs:
                if job.done():
                    job.result()
            if self._ended() != ended:
                ended, since = self._ended(), now
            if now - told > TELL_S:
                told, accepted = now, len(self._outcome.accepted)
                self._tell(f"{accepted} jobs accepted, {ended} ended; answers: {counts(self._outcome.http)}")
            if now - since > self._plan.stall_s:
                raise EndedEarly(f"no job ended for {self._plan.stall_s:g} s")
            self._service.check()
            await asyncio.sleep(0.25)

    async def _look_back(self, client: Client) -> None:
        try:
            async with asyncio.timeout(LOOK_BACK_S):
                await asyncio.gather(*(look_back(client, one) for one in self._outcome.submissions))
                self._outcome.listed = await client.listed() - self._undisturbed_ids
        except (TimeoutError, Refused) as error:
            self._outcome.ended_early = f"the jobs could not be listed at the end: {error!r}"
