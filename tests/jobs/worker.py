"""A job manager in a process of its own, for tests to kill, to stop and to wake."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from serve_app.jobs.db.engine import Database
from serve_app.jobs.manager import JobManager
from serve_app.net.ssrf import guarded_session
from serve_app.schemas.job import Job
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings, JobSettings
from serve_app.storage.blobs import BlobStore
from tests.cluster import ROOT
from tests.jobs.helpers import TRANSCRIPT, request


@dataclass(frozen=True)
class Task:
    """What the process is to do: submit so many jobs, and run the first so long, the second so long, …"""

    url: str
    folder: str
    lease_owner: str
    submit: int = 0
    max_running: int = 1
    lease_s: float = 30.0
    run_s: tuple[float, ...] = ()


class Worker:
    """The process, and what it says: `job ID`, `begun ID ATTEMPT`, `stopped ID ATTEMPT`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._said: list[list[str]] = []

    async def says(self, word: str) -> list[str]:
        """What follows the word in the next line that begins with it."""
        assert self.process.stdout is not None
        for line in self._said:
            if line[0] == word:
                self._said.remove(line)
                return line[1:]
        async with asyncio.timeout(30):
            async for heard in self.process.stdout:
                line = heard.decode().split()
                if line[0] == word:
                    return line[1:]
                self._said.append(line)
        raise AssertionError(f"the process ended before it said {word!r}")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def working(task: Task) -> AsyncIterator[Worker]:
    """The process, killed at the end at the latest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.jobs.worker",
        json.dumps(asdict(task)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    worker = Worker(process)
    try:
        yield worker
    finally:
        if process.returncode is None:
            await worker.kill()


async def main(task: Task) -> None:
    lengths = iter(task.run_s)

    async def run(job: Job) -> Transcript:
        print("begun", job.id, job.attempts, flush=True)
        try:
            await asyncio.sleep(next(lengths, 3600))
        except asyncio.CancelledError:
            print("stopped", job.id, job.attempts, flush=True)
            raise
        print("done", job.id, job.attempts, flush=True)
        return TRANSCRIPT

    jobs = JobSettings(max_running=task.max_running, lease_s=task.lease_s)
    settings = AppSettings(data_dir=Path(task.folder), jobs=jobs)
    database = await Database.open(task.url)
    async with guarded_session(settings.network) as session:
        blobs = BlobStore(settings.blob_root)
        manager = JobManager(settings, database, blobs, run, session, task.lease_owner, {})
        await manager.start()
        for _ in range(task.submit):
            print("job", (await manager.submit(request())).id, flush=True)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Task(**json.loads(sys.argv[1]))))
