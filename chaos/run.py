"""The two acts: parts of the service killed while jobs come and go, then all of it at once."""

import asyncio
import base64
import json
import os
import random
import signal
import time
from asyncio import Task
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from chaos.client import TIMEOUT_S, Client, Refused
from chaos.receiver import Receiver
from chaos.recordings import Recording, recordings
from chaos.service import Service
from chaos.verdict import Outcome, Submission, counts
from chaos.victims import pick

SECRET = "whsec_" + base64.b64encode(b"the fault test signs with this one").decode()
WEBHOOK_TIMEOUT_S = 2.0
RETRY_DELAYS_S = (0, 1, 2) + (4,) * 17
"""Short, so that a run is; many, because the receiver fails a third of the calls and kills cost others."""

SETTINGS = {
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

PAUSE_S = (1.0, 3.0)
"""Between two kills."""

ACT_ONE = 0.6
"""The whole cluster is killed when this share of the jobs has ended."""

READY_S = 180.0
"""To start, on a machine that does other things too."""

POLL_S = 2.0
"""Between two times that a client asks for its job."""

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
        self._service = Service(folder, SETTINGS)
        self._receiver = Receiver(SECRET, WEBHOOK_TIMEOUT_S, random.Random(plan.seed + 1))
        self._undisturbed_ids: set[str] = set()
        self._outcome = Outcome()

    async def __call__(self) -> Outcome:
        """Both acts; every process of the service is gone when this ends, however it ends."""
        start = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        http = aiohttp.ClientSession(f"http://127.0.0.1:{self._service.port}", timeout=timeout)
        client = Client(http)
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
        todo = await self._undisturbed(client, recordings())
        some = [self._rng.choice(todo) for _ in range(self._plan.jobs)]
        submissions = [Submission(number, one.name, text) for number, (one, text) in enumerate(some)]
        self._outcome.submissions = submissions
        open_jobs = asyncio.Semaphore(OPEN_JOBS)
        jobs = [
            asyncio.create_task(self._see_through(client, submission, one.audio, open_jobs))
            for submission, (one, _) in zip(submissions, some, strict=True)
        ]
        killing = asyncio.create_task(self._kill_parts())
        try:
            await self._until(ACT_ONE, jobs, client.answers)
            killing.cancel()
            self._outcome.interrupted = sum(one.job_id is not None and not one.reported for one in submissions)
            self._tell(f"killed the whole cluster, {self._service.kill()} processes; starting it again")
            self._service.start()
            await self._until(1, jobs, client.answers)
        finally:
            for task in (*jobs, killing):
                task.cancel()
            await asyncio.gather(*jobs, killing, return_exceptions=True)

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

    async def _see_through(
        self, client: Client, submission: Submission, audio: bytes, open_jobs: asyncio.Semaphore
    ) -> None:
        """One client's part: submit, wait for the webhook, ask for the text."""
        with _refusals(submission):
            async with open_jobs:
                start = time.monotonic()
                submission.job_id = await client.submit(audio, f"job {submission.number}", self._receiver.url)
                submission.accepted_s = time.monotonic() - start
                submission.events = self._receiver.events[submission.job_id]
                await self._reported(client, submission.job_id)
            await self._ask(client, submission)

    async def _reported(self, client: Client, job_id: str) -> None:
        """Wait for the webhook, and look after the job now and then, as people do."""
        taken = asyncio.create_task(self._receiver.taken(job_id))
        try:
            while not (await asyncio.wait({taken}, timeout=POLL_S))[0]:
                await client.job(job_id)
        finally:
            taken.cancel()

    async def _ask(self, client: Client, submission: Submission) -> None:
        assert submission.job_id is not None
        job = await client.job(submission.job_id)
        if job["status"] == "succeeded":
            submission.text = await client.text(submission.job_id)
        submission.status, submission.attempts = job["status"], job["attempts"]
        submission.error = job["error"] and job["error"]["message"]

    async def _kill_parts(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))
            victim = pick(self._service.parts(), self._outcome.killed, time.monotonic(), self._rng)
            if victim is not None:
                with suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGKILL)
                    self._outcome.killed[victim.kind.name] += 1
                    self._tell(f"killed {victim.kind.name} (process {victim.pid})")

    async def _until(self, share: float, jobs: Sequence[Task[None]], answers: Counter[str]) -> None:
        """Return when this share of the jobs is seen through. Raises EndedEarly."""
        ended, since, told = -1, time.monotonic(), 0.0
        while ended < share * len(jobs):
            now, before = time.monotonic(), ended
            done = [job for job in jobs if job.done()]
            for job in done:
                job.result()
            ended = len(done)
            since = now if ended != before else since
            if now - told > TELL_S:
                accepted = len(self._outcome.accepted)
                self._tell(f"{accepted} of {len(jobs)} jobs accepted, {ended} ended; answers: {counts(answers)}")
                told = now
            if now - since > self._plan.stall_s:
                raise EndedEarly(f"no job ended for {self._plan.stall_s:g} s")
            self._service.check()
            await asyncio.sleep(0.25)

    async def _look_back(self, client: Client) -> None:
        """Ask for the jobs that nothing was heard of, and for the list of all."""
        self._outcome.forged = self._receiver.forged
        self._outcome.http, self._outcome.receiver = client.answers, self._receiver.answers

        async def look(submission: Submission) -> None:
            with _refusals(submission):
                await self._ask(client, submission)

        try:
            async with asyncio.timeout(LOOK_BACK_S):
                unheard = [one for one in self._outcome.submissions if one.job_id is not None and one.status is None]
                await asyncio.gather(*map(look, unheard))
                self._outcome.listed = await client.listed() - self._undisturbed_ids
        except (TimeoutError, Refused) as error:
            self._outcome.ended_early = f"the jobs could not be listed at the end: {error!r}"


@contextmanager
def _refusals(submission: Submission) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        submission.refused = str(error)
