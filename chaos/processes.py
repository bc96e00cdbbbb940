"""Which process is killed next. Pure."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A sort of process: how its command line begins (Ray names processes after their actors), and the seconds
    that one of them is left alone, so that the service can work at all."""

    name: str
    title: str
    rest_s: float


KINDS = (
    Kind("Whisper", "ray::ServeReplica:whisper:Whisper", 15),
    Kind("Transcriber", "ray::ServeReplica:whisper:Transcriber", 15),
    Kind("Ingress", "ray::ServeReplica:whisper:Ingress", 12),
    Kind("JobManager", "ray::JobManagerActor", 12),
    Kind("ServeController", "ray::ServeController", 15),
)


def kind_of(title: str) -> Kind | None:
    """The kind of process with this command line; None for one that is not killed alone."""
    return next((kind for kind in KINDS if title.startswith(kind.title)), None)


@dataclass(frozen=True)
class Process:
    """A process that may be killed, and since when it was there."""

    pid: int
    kind: Kind
    since: float


def pick(processes: Iterable[Process], killed: Counter[str], now: float, rng: random.Random) -> Process | None:
    """One that has had its rest, of the kinds killed least so far: a short run has its turn at each of them."""
    rested = [process for process in processes if now - process.since >= process.kind.rest_s]
    fewest = min((killed[process.kind.name] for process in rested), default=0)
    candidates = [process for process in rested if killed[process.kind.name] == fewest]
    return rng.choice(sorted(candidates, key=lambda process: process.pid)) if candidates else None
