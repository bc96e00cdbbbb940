"""Waiting times of jobs of all lengths, in a simulation of the engine in virtual time."""

import random
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import pytest

from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest
from tests.whisper.engine.scheduling import Window, job_names

STEP_S = 0.01


class Simulation:
    """An engine that decodes one token of each running window per step, in virtual time.

    A window takes 4 tokens per second of audio, as speech does, plus or minus a quarter.
    """

    def __init__(self, batching: Batching, ended: Callable[[Window], None] = lambda window: None) -> None:
        self.batching = batching
        self.ended = ended
        self.scheduler: Scheduler[Window] = Scheduler()
        self.now = 0.0
        self.queued_at: dict[Window, float] = {}
        self.waits: dict[str, list[float]] = defaultdict(list)
        self.admissions: dict[str, list[float]] = defaultdict(list)
        self.finished: dict[str, float] = {}
        self.steps_left: dict[Window, int] = {}
        self.idle_row_steps = 0  # of free rows while a window waited that was allowed to run
        self._random = random.Random(1)

    def submit(self, request: WindowRequest, count: int = 1) -> None:
        for _ in range(count):
            window = Window(request)
            self.queued_at[window] = self.now
            self.scheduler.add(request, window, self.now)

    def step(self) -> None:
        for window in self.scheduler.schedule(self.batching, self.now):
            job = window.request.job
            self.waits[job].append(self.now - self.queued_at.pop(window))
            self.admissions[job].append(self.now)
            self.steps_left[window] = round(window.request.seconds * 4 * self._random.uniform(0.75, 1.25))
        self._count_idle_rows()
        self.now += STEP_S
        for window in list(self.steps_left):
            self.steps_left[window] -= 1
            if self.steps_left[window] == 0:
                del self.steps_left[window]
                self.scheduler.release(window)
                self.finished[window.request.job] = self.now
                self.ended(window)

    def _count_idle_rows(self) -> None:
        waiting, running = set(job_names(self.queued_at)), job_names(self.steps_left)
        cap = self.batching.rows_per_job(len(waiting | set(running)))
        if any(running.count(job) < cap for job in waiting):
            self.idle_row_steps += self.batching.max_batch_size - len(running)


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


@pytest.mark.parametrize("interactive", [True, False], ids=["interactive", "bulk"])
def test_shorter_jobs_do_not_wait_for_a_long_one(interactive: bool) -> None:
    simulation = Simulation(Batching(max_batch_size=16))
    clips = {f"clip{index}": 1 + index * 0.25 for index in range(80)}
    medium = {"medium0": 2.0, "medium1": 2.5, "medium2": 8.0}
    jobs_to_come = [(start, WindowRequest(job, 3), 1) for job, start in clips.items()]
    jobs_to_come += [(start, WindowRequest(job, 20), 18) for job, start in medium.items()]
    jobs_to_come.sort(key=lambda coming: coming[0])
    simulation.submit(WindowRequest("long", 10, interactive=interactive), count=1080)
    while len(simulation.scheduler) or simulation.steps_left:
        assert simulation.now < 60
        while jobs_to_come and simulation.now >= jobs_to_come[0][0]:
            _, request, count = jobs_to_come.pop(0)
            simulation.submit(request, count)
        simulation.step()

    window_s = 10 * 4 * STEP_S
    assert p95([simulation.waits[clip][0] for clip in clips]) <= window_s
    for job, start in medium.items():
        assert simulation.finished[job] - start < simulation.finished["long"] / 4
    assert simulation.idle_row_steps == 0
    assert len(simulation.admissions["long"]) == 1080
    assert max(there - here for here, there in pairwise(simulation.admissions["long"])) < 5 * window_s


def test_bulk_job_under_constant_interactive_load() -> None:
    """Twice as many clients as rows, each of which submits its next window when the last one has finished."""
    patience = 3.0
    simulation = Simulation(
        Batching(max_batch_size=8, bulk_patience_s=patience),
        ended=lambda window: simulation.submit(window.request) if window.request.interactive else None,
    )
    for client in range(16):
        simulation.submit(WindowRequest(f"client{client}", 3))
    simulation.submit(WindowRequest("bulk", 10, interactive=False), count=1080)
    while simulation.now < 20 * patience:
        simulation.step()

    gaps = [there - here for here, there in pairwise([0.0, *simulation.admissions["bulk"]])]
    clip_s = 3 * 4 * STEP_S
    assert len(gaps) >= 15
    assert all(patience - STEP_S < gap < patience + 5 * clip_s for gap in gaps)
