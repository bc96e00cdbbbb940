"""The choice of the process that the fault test kills next."""

import random
from collections import Counter

import pytest

from chaos.processes import KINDS, Process, choose_process, find_kind

WHISPER, TRANSCRIBER = KINDS[:2]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("ray::ServeReplica:whisper:Whisper", "Whisper"),
        ("ray::ServeReplica:whisper:Transcriber.handle_request", "Transcriber"),
        ("ray::JobManagerActor.call", "JobManager"),
        ("ray::ServeController.listen_for_change", "ServeController"),
        ("ray::ProxyActor", None),
        ("python -m chaos ray::ServeController", None),
        ("", None),
    ],
)
def test_find_kind(title: str, name: str | None) -> None:
    kind = find_kind(title)
    assert (kind and kind.name) == name


def test_young_processes_are_not_chosen() -> None:
    young = Process(1, WHISPER, since=100)
    assert choose_process([young], Counter(), 100 + WHISPER.min_age_s - 0.1, random.Random(0)) is None
    assert choose_process([young], Counter(), 100 + WHISPER.min_age_s, random.Random(0)) is young
    assert choose_process([], Counter(), 1000, random.Random(0)) is None


def test_least_killed_kind_is_chosen() -> None:
    processes = [Process(1, WHISPER, 0), Process(2, TRANSCRIBER, 0)]
    for seed in range(20):
        choice = choose_process(processes, Counter(Whisper=2, Transcriber=1), 100, random.Random(seed))
        assert choice is processes[1]


def test_ties_are_random_and_reproducible() -> None:
    processes = [Process(1, WHISPER, 0), Process(2, TRANSCRIBER, 0)]

    def choose_all(order: int) -> list[Process | None]:
        return [choose_process(processes[::order], Counter(), 100, random.Random(seed)) for seed in range(20)]

    assert choose_all(1) == choose_all(-1)
    assert set(choose_all(1)) == set(processes)
