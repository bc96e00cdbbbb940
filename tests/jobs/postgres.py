"""Temporary PostgreSQL servers on loopback, from the system's packages."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from tests.cluster import free_port

MISSING = "no PostgreSQL server on this machine: apt-get install postgresql"


def binaries() -> Path | None:
    """Return the folder of `initdb`, which Debian does not put into the PATH, or None."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    in_path = shutil.which("initdb")
    return installed[-1].parent if installed else Path(in_path).parent if in_path else None


@dataclass(frozen=True)
class Server:
    """A server, and the URL of its `postgres` database without a driver."""

    url: str
    start: Callable[[], None]
    stop: Callable[[], None]


@contextmanager
def server(bin_dir: Path) -> Iterator[Server]:
    folder = Path(mkdtemp(prefix="stt-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
    port = free_port()
    data = folder / "data"

    def control(*command: str | Path) -> None:
        _run(user, bin_dir / "pg_ctl", "-D", data, "-w", *command)

    try:
        if user:
            shutil.chown(folder, user)
        _run(user, bin_dir / "initdb", "-D", data, "-U", "tests", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=200"
        running = Server(
            f"postgresql://tests@127.0.0.1:{port}/postgres",
            lambda: control("-l", folder / "log", "-o", options, "start"),
            lambda: control("-m", "immediate", "stop"),
        )
        running.start()
        try:
            yield running
        finally:
            if (data / "postmaster.pid").exists():
                running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(user: str | None, *command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, user=user, cwd="/tmp", stdout=subprocess.DEVNULL)
