"""The service under test and its processes."""

import ctypes
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from chaos.processes import Process, find_kind
from testing.service_process import service_command, service_environment

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_PROCESS_ENDED = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)
"""Raised by psutil for a process that ends while it is inspected."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies.

    However the service's processes are killed, the remaining ones stay in this process's tree.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Service:
    """`python -m deployments` in a folder of its own; a restart uses the same folder and port."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.port = _find_stable_port()
        self._command = service_command(self.port, folder / "data")
        # Ray's sessions are in the folder too, so that their logs are deleted with it.
        self._environment = service_environment(settings) | {"RAY_TMPDIR": str(folder)}
        self._log = folder / "service.log"
        self._launcher: subprocess.Popen[bytes] | None = None
        self._since: dict[tuple[int, str], float] = {}

    def start(self) -> None:
        """Start the launcher; the service is ready some seconds later."""
        with self._log.open("ab") as log:
            self._launcher = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raise RuntimeError with the end of the log if the launcher has ended by itself."""
        if self._launcher is not None and self._launcher.poll() is not None:
            words = self._log.read_text(errors="replace").strip().splitlines()[-5:]
            raise RuntimeError(f"the service ended with {self._launcher.returncode}: " + "\n".join(words))

    def killable_processes(self) -> list[Process]:
        """Return the processes that are killed one at a time, with the time at which a call first found them."""
        now, since = time.monotonic(), {}
        found = []
        for process in _descendants():
            with suppress(*_PROCESS_ENDED):
                kind = find_kind(" ".join(process.cmdline()))
                if kind is not None:
                    key = process.pid, kind.name
                    since[key] = self._since.get(key, now)
                    found.append(Process(process.pid, kind, since[key]))
        self._since = since
        return found

    def kill(self) -> int:
        """Kill the launcher and all processes that it has started; return their number."""
        self._launcher = None
        return kill_descendants()


def kill_descendants() -> int:
    """Kill all processes that this one has started or adopted, until none is left; return their number."""
    killed = set()
    while processes := list(_descendants()):
        for process in processes:
            with suppress(*_PROCESS_ENDED):
                process.kill()
                killed.add(process.pid)
        psutil.wait_procs(processes, timeout=1)
    return len(killed)


def _descendants() -> Iterator[psutil.Process]:
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(*_PROCESS_ENDED):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _find_stable_port() -> int:
    """Return a free port below the ephemeral range: it must still be free after a kill."""
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port from 15000 to 32000")
