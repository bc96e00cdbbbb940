"""A service process started on loopback for benchmarks and the fault test, with HTTP calls to it."""

import asyncio
import base64
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from testing.webhook_server import serve_webhooks

CONFIG = Path("configs/local.yaml")
_REPLICA = r"ray::\S*:whisper:Whisper\b"
_START_TIMEOUT_S = 300


class ServiceProcess:
    """A running `python -m deployments`; `milestones` are the seconds after the start at which it reached each step."""

    def __init__(self, http: aiohttp.ClientSession, process: asyncio.subprocess.Process) -> None:
        self.http = http
        self.process = process
        self.start = time.perf_counter()
        self.milestones: dict[str, float] = {}
        self.ready = asyncio.Event()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._webhook_url = ""

    @asynccontextmanager
    async def receive_webhooks(self) -> AsyncIterator[None]:
        """Receive the webhooks of `run_jobs` until the block ends."""
        async with serve_webhooks(self._receive) as self._webhook_url:
            yield

    async def _receive(self, request: web.Request) -> web.Response:
        await self._events.put(await request.json())
        return web.Response()

    async def read_output(self) -> None:
        """Record the time of each line that the launcher prints, and set `ready`."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode().strip()
            milestone = text.split("  ")[-1].split(" (")[0]
            self.milestones.setdefault(milestone, time.perf_counter() - self.start)
            if milestone.startswith("Ready"):
                self.ready.set()

    async def wait_for_first_response(self, clip: bytes, options: dict[str, Any]) -> None:
        """Send a clip until the service transcribes it; with options, as a job. Raises RuntimeError."""
        while time.perf_counter() - self.start < _START_TIMEOUT_S:
            if self.process.returncode is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}: {[*self.milestones][-1:]}")
            try:
                await (self.run_jobs([clip], options) if options else self.transcribe(clip))
            except (aiohttp.ClientError, RuntimeError):
                await asyncio.sleep(0.1)
                continue
            self.milestones["the first response"] = now = time.perf_counter() - self.start
            self.milestones["Whisper's process starts"] = now - find_process(_REPLICA)[1]
            return
        raise RuntimeError(f"the service did not answer within {_START_TIMEOUT_S} s")

    async def restart_replica(self, clip: bytes) -> float:
        """Kill Whisper's process; return the seconds from the start of the next one to its first response."""
        os.kill(find_process(_REPLICA)[0], signal.SIGKILL)
        requests: set[asyncio.Task[float]] = set()
        # Each request retries with increasing delays; with many requests, one of them reaches the new replica early.
        for _ in range(4 * _START_TIMEOUT_S):
            requests.add(asyncio.create_task(self.transcribe(clip)))
            done, requests = await asyncio.wait(requests, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in done):
                age = find_process(_REPLICA)[1]
                await asyncio.gather(*requests, return_exceptions=True)
                return age
        raise RuntimeError(f"the service did not answer again within {_START_TIMEOUT_S} s")

    async def transcribe(self, clip: bytes) -> float:
        """Transcribe a short clip; return the seconds that it took."""
        start = time.perf_counter()
        form = aiohttp.FormData({"model": "whisper-1"})
        form.add_field("file", clip, filename="clip.mp3")
        async with self.http.post("/v1/audio/transcriptions", data=form) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
        return time.perf_counter() - start

    async def submit(self, audio: bytes, options: dict[str, Any], **job: Any) -> str:
        """Submit a job; return its id."""
        body = {"audio": base64.b64encode(audio).decode(), **job, **options}
        async with self.http.post("/v1/jobs", json=body) as answer:
            if answer.status != 202:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            return str((await answer.json())["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Fetch a job."""
        async with self.http.get(f"/v1/jobs/{job_id}", raise_for_status=True) as answer:
            job: dict[str, Any] = await answer.json()
            return job

    async def wait_while(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Return the job when its status is none of these."""
        while True:
            job = await self.job(job_id)
            if job["status"] not in statuses:
                return job
            await asyncio.sleep(0.25)

    async def run_jobs(self, audios: Sequence[bytes], options: dict[str, Any]) -> None:
        """Submit jobs at once and wait for their webhooks: polling would take CPU time from the work."""
        webhook = {"url": self._webhook_url}
        left = set(await asyncio.gather(*(self.submit(audio, options, webhook=webhook) for audio in audios)))
        while left:
            event = await self._events.get()
            if event["data"]["status"] != "succeeded":
                raise RuntimeError(f"a job failed: {event['data']['error']}")
            left.discard(event["data"]["id"])


def find_process(title: str) -> tuple[int, float]:
    """Return the id of the process whose command line starts with this pattern, and its age in seconds.

    Raises RuntimeError if there is none.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if re.match(title, path.read_bytes().decode(errors="replace")):
                ticks = int((path.parent / "stat").read_text().rpartition(")")[2].split()[19])
                age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
                return int(path.parent.name), age
    raise RuntimeError(f"no process is called {title}")


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def service_command(port: int, data_dir: Path) -> tuple[str, ...]:
    """Return the command line of a service."""
    config = ("--config", str(CONFIG), "--port", str(port), "--data-dir", str(data_dir))
    return (sys.executable, "-m", "deployments", *config)


def service_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a service; `settings` are its `STT_` variables without the prefix."""
    return os.environ | {f"STT_{name}": value for name, value in settings.items()}


@asynccontextmanager
async def run_service(data_dir: Path, settings: Mapping[str, str]) -> AsyncIterator[ServiceProcess]:
    """Start a service, which runs until the block ends; `settings` are its `STT_` variables without the prefix."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *service_command(port, data_dir), env=service_environment(settings), stdout=asyncio.subprocess.PIPE
    )
    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as http:
        service = ServiceProcess(http, process)
        watching = asyncio.create_task(service.read_output())
        try:
            async with service.receive_webhooks():
                yield service
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await watching
