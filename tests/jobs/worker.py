"""A job manager in a process of its own, which tests kill, suspend and resume."""

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
class WorkerConfig:
    """How many jobs the process submits, how it runs them, and how long each run takes."""

    url: str
    folder: str
    lease_owner: str
    submit: int = 0
    max_running: int = 1
    lease_s: float = 30.0
    run_s: tuple[float, ...] = ()


class Worker:
    """A running process, which prints lines as `job ID`, `begun ID ATTEMPT` and `stopped ID ATTEMPT`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._unread: list[list[str]] = []

    async def read_line(self, word: str) -> list[str]:
        """Return the rest of the next line that starts with this word."""
        assert self.process.stdout is not None
        for line in self._unread:
            if line[0] == word:
                self._unread.remove(line)
                return line[1:]
        async with asyncio.timeout(30):
            async for raw in self.process.stdout:
                line = raw.decode().split()
                if line[0] == word:
                    return line[1:]
                self._unread.append(line)
        raise AssertionError(f"the process ended before it printed {word!r}")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def run_worker(config: WorkerConfig) -> AsyncIterator[Worker]:
    """Start a worker, and kill it at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.jobs.worker",
        json.dumps(asdict(config)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    worker = Worker(process)
    try:
        yield worker
    finally:
        if process.returncode is None:
            await worker.kill()


async def main(config: WorkerConfig) -> None:
    durations = iter(config.run_s)

    async def run(job: Job) -> Transcript:
        print("begun", job.id, job.attempts, flush=True)
        try:
            await asyncio.sleep(next(durations, 3600))
        except asyncio.CancelledError:
            print("stopped", job.id, job.attempts, flush=True)
            raise
        print("done", job.id, job.attempts, flush=True)
        return TRANSCRIPT

    jobs = JobSettings(max_running=config.max_running, lease_s=config.lease_s)
    settings = AppSettings(data_dir=Path(config.folder), jobs=jobs)
    database = await Database.open(config.url)
    async with guarded_session(settings.network) as session:
        blobs = BlobStore(settings.blob_root)
        manager = JobManager(settings, database, blobs, run, session, config.lease_owner, {})
        await manager.start()
        for _ in range(config.submit):
            print("job", (await manager.submit(request())).id, flush=True)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(WorkerConfig(**json.loads(sys.argv[1]))))
