"""Measure the job manager with a long queue: the latency of submissions and list pages over HTTP, and its memory.

    python -m benchmarks.jobs [--jobs 1000] [--clients 1 8] [--save]

Starts `python -m deployments` on loopback with a data folder of its own, and stops it. The running jobs wait for a
server that never responds, so that the queue keeps its length and the engine is idle.
"""

import argparse
import asyncio
import os
import re
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import save_result
from testing.service_process import ServiceProcess, find_process, run_service

MAX_SUBMIT_S = MAX_PAGE_S = 0.05
_MANAGER = re.escape("ray::JobManagerActor")
_PAGES = 50


def summary(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": round(1000 * cuts[49], 1), "p95_ms": round(1000 * cuts[94], 1)}


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


async def submit_all(service: ServiceProcess, url: str, count: int, clients: int) -> list[float]:
    """Submit `count` jobs, `clients` at a time; return the seconds that each took."""
    seconds: list[float] = []
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            start = time.perf_counter()
            async with service.http.post("/v1/jobs", json={"url": url}) as answer:
                if answer.status != 202:
                    raise RuntimeError(f"{answer.status}: {await answer.text()}")
                await answer.read()
            seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


async def list_pages(service: ServiceProcess, count: int) -> list[float]:
    """Page through the job list repeatedly; return the seconds that each page of 20 took."""
    seconds: list[float] = []
    cursor: str | None = None
    while len(seconds) < count:
        start = time.perf_counter()
        params = {"limit": "20"} | ({"cursor": cursor} if cursor else {})
        async with service.http.get("/v1/jobs", params=params, raise_for_status=True) as answer:
            cursor = (await answer.json())["next_cursor"]
        seconds.append(time.perf_counter() - start)
    return seconds


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures for each number of clients; the queue grows by the same number of jobs each time."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/never.mp3"
    found: dict[str, Any] = {}
    async with server, run_service(folder / "data", {"MODEL": "whisper-nano"}) as service:
        print("starting the service …", flush=True)
        await service.ready.wait()
        await submit_all(service, url, 50, 1)
        manager, _ = find_process(_MANAGER)
        for clients in arguments.clients:
            before = resident_mb(manager)
            submitted = await submit_all(service, url, arguments.jobs, clients)
            pages = await list_pages(service, _PAGES)
            found[f"{clients} clients"] = {
                "submit": summary(submitted),
                "page": summary(pages),
                "manager_mb": [before, resident_mb(manager)],
            }
            print(f"{clients} clients: {found[f'{clients} clients']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs to submit for each number of clients (1000)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="numbers of parallel clients (1 8)")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="stt-", dir="/tmp") as folder:
        figures = asyncio.run(measure(arguments, Path(folder)))
    alone = figures[f"{arguments.clients[0]} clients"]
    print(f"submit p95 {alone['submit']['p95_ms']} ms (at most {1000 * MAX_SUBMIT_S:g})")
    print(f"page p95 {alone['page']['p95_ms']} ms (at most {1000 * MAX_PAGE_S:g})")
    if arguments.save:
        save_result("jobs", ("ray", "sqlalchemy"), {"jobs": arguments.jobs, **figures})


if __name__ == "__main__":
    main()
