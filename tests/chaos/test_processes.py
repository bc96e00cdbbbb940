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
def test_a_process_is_known_by_how_its_title_begins(title: str, name: str | None) -> None:
    kind = find_kind(title)
    assert (kind and kind.name) == name


def test_one_that_has_just_come_is_left_alone() -> None:
    young = Process(1, WHISPER, since=100)
    assert choose_process([young], Counter(), 100 + WHISPER.min_age_s - 0.1, random.Random(0)) is None
    assert choose_process([young], Counter(), 100 + WHISPER.min_age_s, random.Random(0)) is young
    assert choose_process([], Counter(), 1000, random.Random(0)) is None


def test_the_kind_killed_least_is_next() -> None:
    processes = [Process(1, WHISPER, 0), Process(2, TRANSCRIBER, 0)]
    for seed in range(20):
        chosen = choose_process(processes, Counter(Whisper=2, Transcriber=1), 100, random.Random(seed))
        assert chosen is processes[1]


def test_equals_are_chosen_by_chance_and_alike_for_one_seed() -> None:
    processes = [Process(1, WHISPER, 0), Process(2, TRANSCRIBER, 0)]

    def chosen(order: int) -> list[Process | None]:
        return [choose_process(processes[::order], Counter(), 100, random.Random(seed)) for seed in range(20)]

    assert chosen(1) == chosen(-1)
    assert set(chosen(1)) == set(processes)
