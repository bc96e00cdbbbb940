"""A PostgreSQL server for the tests, from the system's packages: its own cluster, on loopback, gone afterwards."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tests.cluster import free_port

MISSING = "no PostgreSQL server on this machine: apt-get install postgresql"


def binaries() -> Path | None:
    """The folder of `initdb`, where Debian keeps it out of the PATH; None: there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


@contextmanager
def server(bin_dir: Path) -> Iterator[str]:
    """A running server: the URL of its `postgres` database, without its driver."""
    folder = Path(mkdtemp(prefix="stt-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to be run by root
    port = free_port()
    try:
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        _run(user, bin_dir / "initdb", "-D", data, "-U", "tests", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=200"
        _run(user, bin_dir / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://tests@127.0.0.1:{port}/postgres"
        finally:
            _run(user, bin_dir / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(user: str | None, *command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, user=user, cwd="/tmp", stdout=subprocess.DEVNULL)
