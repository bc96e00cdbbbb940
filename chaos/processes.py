"""The processes that are killed, and the choice of the next one. Pure."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessKind:
    """A kind of process: the prefix of its command line (Ray names processes after their actors), and the age in
    seconds before which one of them is not killed, so that the service makes progress.
    """

    name: str
    title: str
    min_age_s: float


KINDS = (
    ProcessKind("Whisper", "ray::ServeReplica:whisper:Whisper", 15),
    ProcessKind("Transcriber", "ray::ServeReplica:whisper:Transcriber", 15),
    ProcessKind("Ingress", "ray::ServeReplica:whisper:Ingress", 12),
    ProcessKind("JobManager", "ray::JobManagerActor", 12),
    ProcessKind("ServeController", "ray::ServeController", 15),
)


def find_kind(title: str) -> ProcessKind | None:
    """Return the kind of the process with this command line; None for one that is not killed by itself."""
    return next((kind for kind in KINDS if title.startswith(kind.title)), None)


@dataclass(frozen=True)
class Process:
    """A process that may be killed, and the time at which it was first seen."""

    pid: int
    kind: ProcessKind
    since: float


def choose_process(
    processes: Iterable[Process], killed: Counter[str], now: float, rng: random.Random
) -> Process | None:
    """Choose a process that is old enough, of the kinds killed least often so far: a short run kills each kind."""
    rested = [process for process in processes if now - process.since >= process.kind.min_age_s]
    fewest = min((killed[process.kind.name] for process in rested), default=0)
    candidates = [process for process in rested if killed[process.kind.name] == fewest]
    return rng.choice(sorted(candidates, key=lambda process: process.pid)) if candidates else None
