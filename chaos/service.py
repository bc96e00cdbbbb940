"""The service under test: its processes, and nobody else's."""

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

from testing.service_process import command, environment
from chaos.processes import Process, kind_of

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_GONE = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)
"""What psutil raises of a process that ends while it looks."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies.

    However the service's processes are killed, those that are left stay in this process's tree.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Service:
    """`python -m deployments` in a folder of its own; started again, it finds the same folder and port."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.port = _quiet_port()
        self._command = command(self.port, folder / "data")
        # Ray's sessions go into the folder too: their logs end with it.
        self._environment = environment(settings) | {"RAY_TMPDIR": str(folder)}
        self._log = folder / "service.log"
        self._launcher: subprocess.Popen[bytes] | None = None
        self._since: dict[tuple[int, str], float] = {}

    def start(self) -> None:
        """Start it; it is ready some seconds later."""
        with self._log.open("ab") as log:
            self._launcher = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raise RuntimeError, with its last words, when the launcher has ended by itself."""
        if self._launcher is not None and self._launcher.poll() is not None:
            words = self._log.read_text(errors="replace").strip().splitlines()[-5:]
            raise RuntimeError(f"the service ended with {self._launcher.returncode}: " + "\n".join(words))

    def parts(self) -> list[Process]:
        """The processes of it that are killed alone; each was there since a call first saw it."""
        now, since = time.monotonic(), {}
        found = []
        for process in _descendants():
            with suppress(*_GONE):
                kind = kind_of(" ".join(process.cmdline()))
                if kind is not None:
                    key = process.pid, kind.name
                    since[key] = self._since.get(key, now)
                    found.append(Process(process.pid, kind, since[key]))
        self._since = since
        return found

    def kill(self) -> int:
        """SIGKILL to the launcher and all it has started; how many there were."""
        self._launcher = None
        return kill_descendants()


def kill_descendants() -> int:
    """SIGKILL to all that this process has started or adopted, until none is left; how many there were."""
    killed = set()
    while processes := list(_descendants()):
        for process in processes:
            with suppress(*_GONE):
                process.kill()
                killed.add(process.pid)
        psutil.wait_procs(processes, timeout=1)
    return len(killed)


def _descendants() -> Iterator[psutil.Process]:
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(*_GONE):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _quiet_port() -> int:
    """A free port below those that the system hands out: after a kill it must still be free."""
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port from 15000 to 32000")
