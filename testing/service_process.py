"""The service started for a benchmark: a process of our own, asked over HTTP on loopback."""

import asyncio
import base64
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

CONFIG = Path("configs/local.yaml")
_REPLICA = r"ray::\S*:whisper:Whisper\b"
_START_TIMEOUT_S = 300


class Service:
    """A service of our own, and when it came to which point, in seconds after its start."""

    def __init__(self, http: aiohttp.ClientSession, process: asyncio.subprocess.Process) -> None:
        self.http = http
        self.process = process
        self.start = time.perf_counter()
        self.points: dict[str, float] = {}
        self.ready = asyncio.Event()
        self._ended: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._hook = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take webhooks, until the block ends."""
        async with receiving(self._receive) as self._hook:
            yield

    async def _receive(self, request: web.Request) -> web.Response:
        await self._ended.put(await request.json())
        return web.Response()

    async def watch(self) -> None:
        """Note when the launcher's lines come."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode().strip()
            point = text.split("  ")[-1].split(" (")[0]
            self.points.setdefault(point, time.perf_counter() - self.start)
            if point.startswith("Ready"):
                self.ready.set()

    async def first_answer(self, clip: bytes, options: dict[str, Any]) -> None:
        """Ask until it answers; with options, by a job."""
        while time.perf_counter() - self.start < _START_TIMEOUT_S:
            if self.process.returncode is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}: {[*self.points][-1:]}")
            try:
                await (self.finish([clip], options) if options else self.transcribe(clip))
            except (aiohttp.ClientError, RuntimeError):
                await asyncio.sleep(0.1)
                continue
            self.points["the first answer"] = now = time.perf_counter() - self.start
            self.points["Whisper's process starts"] = now - process(_REPLICA)[1]
            return
        raise RuntimeError(f"the service did not answer within {_START_TIMEOUT_S} s")

    async def restart(self, clip: bytes) -> float:
        """Kill Whisper's process: the seconds from the next one's start to its first answer."""
        os.kill(process(_REPLICA)[0], signal.SIGKILL)
        asking: set[asyncio.Task[float]] = set()
        # A request waits longer and longer between its calls of what is away: many of them find it soon.
        for _ in range(4 * _START_TIMEOUT_S):
            asking.add(asyncio.create_task(self.transcribe(clip)))
            answered, asking = await asyncio.wait(asking, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in answered):
                age = process(_REPLICA)[1]
                await asyncio.gather(*asking, return_exceptions=True)
                return age
        raise RuntimeError(f"the service did not answer again within {_START_TIMEOUT_S} s")

    async def transcribe(self, clip: bytes) -> float:
        """Seconds until the text of a short clip."""
        start = time.perf_counter()
        form = aiohttp.FormData({"model": "whisper-1"})
        form.add_field("file", clip, filename="clip.mp3")
        async with self.http.post("/v1/audio/transcriptions", data=form) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
        return time.perf_counter() - start

    async def submit(self, audio: bytes, options: dict[str, Any], **job: Any) -> str:
        """The id of a new job."""
        body = {"audio": base64.b64encode(audio).decode(), **job, **options}
        async with self.http.post("/v1/jobs", json=body) as answer:
            if answer.status != 202:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            return str((await answer.json())["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        async with self.http.get(f"/v1/jobs/{job_id}", raise_for_status=True) as answer:
            job: dict[str, Any] = await answer.json()
            return job

    async def when_not(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """The job once it has left these statuses."""
        while True:
            job = await self.job(job_id)
            if job["status"] not in statuses:
                return job
            await asyncio.sleep(0.25)

    async def finish(self, audios: Sequence[bytes], options: dict[str, Any]) -> None:
        """Submit jobs at once and wait for all their webhooks: asking again and again takes time from the work."""
        webhook = {"url": self._hook}
        left = set(await asyncio.gather(*(self.submit(audio, options, webhook=webhook) for audio in audios)))
        while left:
            event = await self._ended.get()
            if event["data"]["status"] != "succeeded":
                raise RuntimeError(f"a job failed: {event['data']['error']}")
            left.discard(event["data"]["id"])


@asynccontextmanager
async def receiving(receive: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A server on loopback for webhooks, until the block ends: its URL."""
    application = web.Application(client_max_size=2**30)
    application.router.add_post("/", receive)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


def process(title: str) -> tuple[int, float]:
    """Its id, and how many seconds ago it started: the one whose command line begins with this pattern.

    Raises RuntimeError when there is none.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if re.match(title, path.read_bytes().decode(errors="replace")):
                ticks = int((path.parent / "stat").read_text().rpartition(")")[2].split()[19])
                age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
                return int(path.parent.name), age
    raise RuntimeError(f"no process is called {title}")


def free_port() -> int:
    """A port of the loopback interface where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command(port: int, data_dir: Path) -> tuple[str, ...]:
    """The command line of a service."""
    config = ("--config", str(CONFIG), "--port", str(port), "--data-dir", str(data_dir))
    return (sys.executable, "-m", "deployments", *config)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service; `settings` are its `STT_` variables without the prefix."""
    return os.environ | {f"STT_{name}": value for name, value in settings.items()}


@asynccontextmanager
async def running(data_dir: Path, settings: Mapping[str, str]) -> AsyncIterator[Service]:
    """A service that is starting, until the block ends; `settings` are its `STT_` variables without the prefix."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *command(port, data_dir), env=environment(settings), stdout=asyncio.subprocess.PIPE
    )
    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as http:
        service = Service(http, process)
        watching = asyncio.create_task(service.watch())
        try:
            async with service.listening():
                yield service
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await watching
