"""The service started for a benchmark: a process of our own, asked over HTTP on loopback."""

import asyncio
import base64
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

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

    async def watch(self) -> None:
        """Note when the launcher's lines come."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode().strip()
            self.points.setdefault(text.split("  ")[-1].split(" (")[0], time.perf_counter() - self.start)

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
            age = seconds_since(_REPLICA)
            if age is not None:
                self.points["Whisper's process starts"] = now - age
            return
        raise RuntimeError(f"the service did not answer within {_START_TIMEOUT_S} s")

    async def transcribe(self, clip: bytes) -> float:
        """Seconds until the text of a short clip."""
        start = time.perf_counter()
        form = aiohttp.FormData({"model": "whisper-1"})
        form.add_field("file", clip, filename="clip.mp3")
        async with self.http.post("/v1/audio/transcriptions", data=form) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
        return time.perf_counter() - start

    async def submit(self, audio: bytes, options: dict[str, Any]) -> str:
        """The id of a new job."""
        body = {"audio": base64.b64encode(audio).decode(), **options}
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
        """Submit jobs at once and wait until all have ended, with few questions: each takes time from the work."""
        ids = set(await asyncio.gather(*(self.submit(audio, options) for audio in audios)))
        while True:
            async with self.http.get("/v1/jobs", params={"limit": len(ids)}, raise_for_status=True) as answer:
                jobs = [job for job in (await answer.json())["data"] if job["id"] in ids]
            lost = [job["error"] for job in jobs if job["status"] in ("failed", "cancelled")]
            if lost:
                raise RuntimeError(f"a job failed: {lost[0]}")
            if sum(job["status"] == "succeeded" for job in jobs) == len(ids):
                return
            await asyncio.sleep(0.25)


def seconds_since(title: str) -> float | None:
    """How long ago the process whose command line begins with this pattern started; None when there is none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if re.match(title, path.read_bytes().decode(errors="replace")):
                ticks = int((path.parent / "stat").read_text().rpartition(")")[2].split()[19])
                return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return None


@asynccontextmanager
async def running(data_dir: Path, settings: Mapping[str, str]) -> AsyncIterator[Service]:
    """A service that is starting, until the block ends; `settings` are its `STT_` variables without the prefix."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    chosen = {f"STT_{name}": value for name, value in settings.items()}
    command = ("-m", "deployments", "--config", str(CONFIG), "--port", str(port), "--data-dir", str(data_dir))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command), env=os.environ | chosen, stdout=asyncio.subprocess.PIPE
    )
    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as http:
        service = Service(http, process)
        watching = asyncio.create_task(service.watch())
        try:
            yield service
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await watching
