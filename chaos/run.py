"""A run of the fault test: first single processes are killed while jobs arrive, then the whole cluster."""

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

from chaos.checks import Outcome, Submission, counts
from chaos.client import TIMEOUT_S, Client, Refused
from chaos.client_session import recheck, run_submission
from chaos.processes import KINDS, choose_process
from chaos.receiver import Receiver
from chaos.recordings import Recording, recordings
from chaos.service import Service

SECRET = "whsec_" + base64.b64encode(b"the fault test signs with this one").decode()
WEBHOOK_TIMEOUT_S = 2.0
RETRY_DELAYS_S = (0, 1, 2) + (4,) * 17
"""Short, so that a run is short; many, because the receiver fails a third of the calls and kills cost others."""

SETTINGS = {
    "MODEL": "whisper-nano",  # fast, and available without a network
    "WEBHOOKS__SECRETS": json.dumps([SECRET]),
    "WEBHOOKS__TIMEOUT_S": str(WEBHOOK_TIMEOUT_S),
    "WEBHOOKS__RETRY_DELAYS_S": json.dumps(RETRY_DELAYS_S),
    "JOBS__LEASE_S": "10",  # after a kill of the whole cluster, jobs are run again when their leases expire
    # On a slow machine few jobs end between two kills, and all running ones are lost.
    "JOBS__MAX_RUNNING": "4",
    "JOBS__MAX_LOSSES": "100",  # jobs do not cause the losses here
}

MAX_OPEN_JOBS = 24
"""Jobs that the clients have open at a time: more than the service runs, so that others wait in its queue."""

ARRIVAL_INTERVAL_S = 0.5
"""Seconds between two submissions of the first phase."""

KILL_INTERVAL_S = (1.0, 3.0)
"""Seconds between two kills, at least and at most."""

FIRST_PHASE_SHARE, FIRST_PHASE_ENDED_SHARE, ACCEPTED_BEFORE_KILL_SHARE = 0.6, 0.8, 0.5
"""Shares: of all jobs, those of the first phase; of these, those that have ended when the second phase starts; of the
second phase's jobs, those that are accepted when the whole cluster is killed.
"""

READY_TIMEOUT_S = 180.0
"""For the start, on a machine that is busy with other work."""

PROGRESS_INTERVAL_S = 5.0
"""Seconds between two lines of progress."""

RECHECK_TIMEOUT_S = 45.0
"""For the final check of all jobs."""


class EndedEarly(RuntimeError):
    """The run can't continue."""


@dataclass(frozen=True)
class Plan:
    """Parameters of a run: jobs, seconds without an ended job before it fails, its time limit, the random seed."""

    jobs: int
    stall_s: float
    limit_s: float
    seed: int


class Run:
    """One run of a plan in a folder of its own; `log` receives progress lines."""

    def __init__(self, plan: Plan, folder: Path, log: Callable[[str], None]) -> None:
        self._plan = plan
        self._log = log
        self._rng = random.Random(plan.seed)
        # Unique to this run: another service that starts on the same port refuses these clients.
        self._key = secrets.token_hex(16)
        self._service = Service(folder, SETTINGS | {"API_KEYS": json.dumps([self._key])})
        self._receiver = Receiver(SECRET, WEBHOOK_TIMEOUT_S, random.Random(plan.seed + 1))
        self._undisturbed_ids: set[str] = set()
        self._jobs: list[Task[None]] = []
        self._outcome = Outcome()

    async def __call__(self) -> Outcome:
        """Run both phases; every process of the service is gone when this returns or raises."""
        start = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        http = aiohttp.ClientSession(
            f"http://127.0.0.1:{self._service.port}",
            timeout=timeout,
            headers={"Authorization": f"Bearer {self._key}"},
        )
        client = Client(http)
        self._outcome.http, self._outcome.receiver = client.responses, self._receiver.responses
        self._outcome.invalid_webhooks = self._receiver.invalid_webhooks
        try:
            async with http, self._receiver.listening():
                try:
                    async with asyncio.timeout(self._plan.limit_s):
                        await self._run_phases(client)
                except TimeoutError:
                    self._outcome.ended_early = f"not done within {self._plan.limit_s:g} s"
                except EndedEarly as error:
                    self._outcome.ended_early = str(error)
                await self._recheck(client)
        finally:
            self._service.kill()
        self._outcome.seconds = time.monotonic() - start
        return self._outcome

    async def _run_phases(self, client: Client) -> None:
        self._service.start()
        await self._wait_until_ready(client)
        self._service.killable_processes()  # records when they were first seen
        known = await self._transcribe_undisturbed(client, recordings())
        chosen = [self._rng.choice(known) for _ in range(self._plan.jobs)]
        submissions = [Submission(number, recording.name, text) for number, (recording, text) in enumerate(chosen)]
        self._outcome.submissions = submissions
        first = round(FIRST_PHASE_SHARE * len(submissions))
        open_jobs = asyncio.Semaphore(MAX_OPEN_JOBS)

        async def job(number: int, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            await run_submission(client, self._receiver, submissions[number], chosen[number][0].audio, open_jobs)

        self._jobs = [asyncio.create_task(job(number, number * ARRIVAL_INTERVAL_S)) for number in range(first)]
        killing = asyncio.create_task(self._kill_parts())
        try:
            await self._wait_until(lambda: killing.done() or self._is_first_phase_over())
            if not killing.cancel():
                killing.result()  # it ends only by an exception, which this raises
            self._jobs += [asyncio.create_task(job(number, 0)) for number in range(first, len(submissions))]
            rest = submissions[first:]
            await self._wait_until(
                lambda: sum(one.job_id is not None for one in rest) >= ACCEPTED_BEFORE_KILL_SHARE * len(rest)
            )
            self._outcome.interrupted = sum(one.job_id is not None and not one.reported for one in submissions)
            self._log(f"killed the whole cluster, {self._service.kill()} processes; starting it again")
            self._service.start()
            await self._wait_until(lambda: self._count_ended() == len(self._jobs))
        finally:
            for task in (*self._jobs, killing):
                task.cancel()
            await asyncio.gather(*self._jobs, killing, return_exceptions=True)

    async def _wait_until_ready(self, client: Client) -> None:
        start = time.monotonic()
        while not await client.is_ready():
            self._service.check()
            if time.monotonic() - start > READY_TIMEOUT_S:
                raise EndedEarly(f"the service was not ready within {READY_TIMEOUT_S:g} s")
            await asyncio.sleep(0.5)
        self._log(f"the service is ready after {time.monotonic() - start:.1f} s")

    async def _transcribe_undisturbed(self, client: Client, todo: Sequence[Recording]) -> list[tuple[Recording, str]]:
        """Transcribe every recording before anything is killed."""

        async def text(recording: Recording) -> str:
            job_id = await client.submit(recording.audio, f"undisturbed {recording.name}")
            self._undisturbed_ids.add(job_id)
            job = await client.wait_until_ended(job_id)
            text = await client.text(job_id) if job["status"] == "succeeded" else f"{job['error']}"
            if recording.text not in text:
                raise EndedEarly(f"undisturbed, the text of {recording.name} is {text!r}, without {recording.text!r}")
            return text

        start = time.monotonic()
        texts = await asyncio.gather(*map(text, todo))
        self._log(f"{len(todo)} recordings transcribed undisturbed in {time.monotonic() - start:.1f} s")
        return list(zip(todo, texts, strict=True))

    async def _kill_parts(self) -> None:
        ended_at_kill: dict[str, int] = {}  # jobs, when one of a kind was killed last
        while True:
            await asyncio.sleep(self._rng.uniform(*KILL_INTERVAL_S))
            # On any machine, some job must end between two kills of the same kind of process.
            candidates = [
                process
                for process in self._service.killable_processes()
                if self._count_ended() > ended_at_kill.get(process.kind.name, -1)
            ]
            process = choose_process(candidates, self._outcome.killed, time.monotonic(), self._rng)
            if process is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                    ended_at_kill[process.kind.name] = self._count_ended()
                    self._outcome.killed[process.kind.name] += 1
                    self._log(f"killed {process.kind.name} (process {process.pid})")

    def _count_ended(self) -> int:
        return sum(job.done() for job in self._jobs)

    def _is_first_phase_over(self) -> bool:
        return self._count_ended() >= FIRST_PHASE_ENDED_SHARE * len(self._jobs) and all(
            self._outcome.killed[kind.name] for kind in KINDS
        )

    async def _wait_until(self, over: Callable[[], bool]) -> None:
        """Return when `over` is true. Raises EndedEarly when jobs no longer end, and whatever a job's client raised."""
        ended, since, last_progress = -1, time.monotonic(), 0.0
        while not over():
            now = time.monotonic()
            for job in self._jobs:
                if job.done():
                    job.result()
            if self._count_ended() != ended:
                ended, since = self._count_ended(), now
            if now - last_progress > PROGRESS_INTERVAL_S:
                last_progress, accepted = now, len(self._outcome.accepted)
                self._log(f"{accepted} jobs accepted, {ended} ended; answers: {counts(self._outcome.http)}")
            if now - since > self._plan.stall_s:
                raise EndedEarly(f"no job ended for {self._plan.stall_s:g} s")
            self._service.check()
            await asyncio.sleep(0.25)

    async def _recheck(self, client: Client) -> None:
        try:
            async with asyncio.timeout(RECHECK_TIMEOUT_S):
                await asyncio.gather(*(recheck(client, one) for one in self._outcome.submissions))
                self._outcome.listed = await client.list_jobs() - self._undisturbed_ids
        except (TimeoutError, Refused) as error:
            self._outcome.ended_early = f"the jobs could not be listed at the end: {error!r}"
