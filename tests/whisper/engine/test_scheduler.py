"""Who is given the free rows, with a clock of our own."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import ValidationError

from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest


@dataclass(frozen=True, eq=False)
class Window:
    claim: WindowRequest


def queued(scheduler: Scheduler[Window], claim: WindowRequest, count: int = 1, now: float = 0.0) -> list[Window]:
    windows = [Window(claim) for _ in range(count)]
    for window in windows:
        scheduler.add(claim, window, now)
    return windows


@pytest.fixture
def scheduler() -> Scheduler[Window]:
    return Scheduler()


def jobs(windows: Iterable[Window]) -> list[str]:
    return [window.claim.job for window in windows]


FOUR = Batching(max_batch_size=4)


def test_a_lone_job_fills_all_rows_in_order_and_a_released_row_is_taken_at_once(scheduler: Scheduler[Window]) -> None:
    windows = queued(scheduler, WindowRequest("a", 10), count=6)
    assert scheduler.schedule(FOUR, 0) == windows[:4]
    assert (scheduler.rows_in_use, scheduler.waiting, len(scheduler)) == (4, 2, 2)
    assert scheduler.schedule(FOUR, 1) == []
    scheduler.release(windows[2])
    assert scheduler.rows_in_use == 3
    assert scheduler.schedule(FOUR, 2) == windows[4:5]


@pytest.mark.parametrize(("rows", "cap"), [(1, 1), (2, 1), (3, 2), (4, 3), (16, 12), (64, 48)])
def test_by_default_a_job_in_company_leaves_a_quarter_of_the_rows(rows: int, cap: int) -> None:
    assert Batching(max_batch_size=rows).rows_per_job(1) == rows
    assert Batching(max_batch_size=rows).rows_per_job(2) == cap
    assert Batching(max_batch_size=rows, max_rows_per_job=5).rows_per_job(1) == 5


def test_a_job_is_in_company_while_another_waits_or_runs(scheduler: Scheduler[Window]) -> None:
    (short,) = queued(scheduler, WindowRequest("short", 3))
    queued(scheduler, WindowRequest("long", 10), count=9)
    assert jobs(scheduler.schedule(FOUR, 0)) == ["short", "long", "long", "long"]
    scheduler.release(short)
    assert jobs(scheduler.schedule(FOUR, 1)) == ["long"]


def test_a_cap_that_was_set_binds_a_lone_job_too(scheduler: Scheduler[Window]) -> None:
    queued(scheduler, WindowRequest("a", 10), count=6)
    assert len(scheduler.schedule(Batching(max_batch_size=4, max_rows_per_job=2), 0)) == 2


def test_no_more_are_taken_than_asked_for_and_the_next_choice_is_made_anew(scheduler: Scheduler[Window]) -> None:
    queued(scheduler, WindowRequest("long", 10), count=6)
    assert jobs(scheduler.schedule(FOUR, 0, limit=2)) == ["long", "long"]
    queued(scheduler, WindowRequest("short", 3), now=1)
    assert jobs(scheduler.schedule(FOUR, 2, limit=1)) == ["short"]


def test_only_interactive_windows_are_taken_when_it_is_so_wanted(scheduler: Scheduler[Window]) -> None:
    queued(scheduler, WindowRequest("bulk", 10, interactive=False), count=3)
    assert scheduler.schedule(FOUR, 1, interactive_only=True) == []
    assert not scheduler.is_serving_interactive
    (clip,) = queued(scheduler, WindowRequest("clip", 3), now=1)
    assert scheduler.schedule(FOUR, 2, interactive_only=True) == [clip]
    assert scheduler.is_serving_interactive
    scheduler.release(clip)
    assert not scheduler.is_serving_interactive
    patience = FOUR.bulk_patience_s
    assert jobs(scheduler.schedule(FOUR, patience, limit=1, interactive_only=True)) == ["bulk"], "none is starved"


@pytest.mark.parametrize(("limit", "rows"), [(1, 1), (2, 2), (9, 3)])
def test_the_smaller_of_cap_and_limit_binds(scheduler: Scheduler[Window], limit: int, rows: int) -> None:
    queued(scheduler, WindowRequest("a", 10, max_rows_per_job=limit), count=6)
    assert len(scheduler.schedule(Batching(max_batch_size=4, max_rows_per_job=3), 0)) == rows


def test_interactive_comes_before_bulk_however_short_the_bulk_job(scheduler: Scheduler[Window]) -> None:
    queued(scheduler, WindowRequest("bulk", 2, interactive=False))
    queued(scheduler, WindowRequest("live", 30), count=3, now=29)
    assert jobs(scheduler.schedule(FOUR, 29)) == ["live", "live", "live", "bulk"]


def test_the_highest_response_ratio_goes_first(scheduler: Scheduler[Window]) -> None:
    one = Batching(max_batch_size=1)
    queued(scheduler, WindowRequest("long", 50), count=2)  # at 60: (60 + 100) / 100
    queued(scheduler, WindowRequest("early", 10), now=55)  # (5 + 10) / 10
    queued(scheduler, WindowRequest("late", 10), now=57)  # (3 + 10) / 10
    first = scheduler.schedule(one, 60)
    assert jobs(first) == ["long"]
    scheduler.release(first[0])  # its other window: (60 + 50) / 50
    order = []
    while taken := scheduler.schedule(one, 60):
        order += jobs(taken)
        scheduler.release(taken[0])
    assert order == ["long", "early", "late"]


def test_of_jobs_that_come_together_the_shorter_goes_first(scheduler: Scheduler[Window]) -> None:
    queued(scheduler, WindowRequest("long", 20))
    queued(scheduler, WindowRequest("short", 5))
    assert jobs(scheduler.schedule(FOUR, 0)) == ["short", "long"]


def test_a_moment_of_sound_costs_a_second(scheduler: Scheduler[Window]) -> None:
    queued(scheduler, WindowRequest("second", 1), now=0)
    queued(scheduler, WindowRequest("blip", 0.01), now=1)
    assert jobs(scheduler.schedule(FOUR, 2)) == ["second", "blip"]


def test_a_retry_goes_to_the_front_of_its_job_and_the_jobs_wait_goes_on(scheduler: Scheduler[Window]) -> None:
    claim = WindowRequest("a", 10)
    fresh = queued(scheduler, claim, count=2)
    retries = [Window(claim), Window(claim)]
    for now, retry in enumerate(retries, start=8):
        scheduler.add(claim, retry, now, is_retry=True)
    (other,) = queued(scheduler, WindowRequest("b", 10), now=9)  # at 10: (1 + 10) / 10, against (10 + 40) / 40
    assert scheduler.schedule(Batching(max_batch_size=1), 10) == retries[:1]
    assert scheduler.schedule(Batching(max_batch_size=5), 10) == [retries[1], fresh[0], other]
    scheduler.release(other)
    assert scheduler.schedule(Batching(max_batch_size=5), 10) == fresh[1:]


def test_only_sound_that_waits_counts_as_cost(scheduler: Scheduler[Window]) -> None:
    long = queued(scheduler, WindowRequest("long", 50), count=2)
    queued(scheduler, WindowRequest("short", 10), now=50)  # at 60: (10 + 10) / 10, against (60 + 50) / 50
    scheduler.discard(long[0])
    assert scheduler.schedule(FOUR, 60)[:1] == long[1:]


def test_a_window_can_be_tried_again(scheduler: Scheduler[Window]) -> None:
    (window,) = queued(scheduler, WindowRequest("a", 10))
    for now in range(3):
        assert scheduler.schedule(FOUR, now) == [window]
        scheduler.release(window)
        scheduler.add(window.claim, window, now, is_retry=True)
    assert (scheduler.rows_in_use, scheduler.waiting) == (0, 1)


def test_a_bulk_job_out_of_patience_is_ranked_as_one_window_that_just_came(scheduler: Scheduler[Window]) -> None:
    batching = Batching(max_batch_size=1, bulk_patience_s=30)
    queued(scheduler, WindowRequest("bulk", 10, interactive=False), count=100)
    queued(scheduler, WindowRequest("live", 100), now=29)
    (live,) = scheduler.schedule(batching, 29.9)
    assert live.claim.job == "live"
    scheduler.release(live)
    queued(scheduler, WindowRequest("elder", 10), now=29.9)
    queued(scheduler, WindowRequest("younger", 10), now=30.1)
    order = []
    for _ in range(4):  # after its first window, bulk is to be patient again
        (taken,) = scheduler.schedule(batching, 40)
        order.append(taken.claim.job)
        scheduler.release(taken)
    assert order == ["elder", "bulk", "younger", "bulk"]


def test_a_wide_window_is_not_passed_by_narrow_ones(scheduler: Scheduler[Window]) -> None:
    running = queued(scheduler, WindowRequest("running", 10), count=2)
    scheduler.schedule(FOUR, 0)
    (wide,) = queued(scheduler, WindowRequest("wide", 10, rows=3), now=1)
    narrow = queued(scheduler, WindowRequest("narrow", 10), count=3, now=2)
    assert scheduler.schedule(FOUR, 3) == []
    scheduler.release(running[0])
    assert scheduler.schedule(FOUR, 4) == [wide]
    assert scheduler.rows_in_use == 4
    scheduler.release(wide)
    assert scheduler.schedule(FOUR, 5) == narrow


def test_a_window_wider_than_its_jobs_cap_runs_when_its_job_holds_nothing(scheduler: Scheduler[Window]) -> None:
    batching = Batching(max_batch_size=4, max_rows_per_job=2)
    first, second = queued(scheduler, WindowRequest("wide", 10, rows=3), count=2)
    narrow = queued(scheduler, WindowRequest("narrow", 30))
    assert scheduler.schedule(batching, 0) == [first, *narrow]
    scheduler.release(narrow[0])
    assert scheduler.schedule(batching, 1) == []
    scheduler.release(first)
    assert scheduler.schedule(batching, 2) == [second]


def test_a_window_wider_than_the_batch_has_become_runs_alone(scheduler: Scheduler[Window]) -> None:
    (narrow,) = queued(scheduler, WindowRequest("narrow", 1))
    scheduler.schedule(FOUR, 0)
    (wide,) = queued(scheduler, WindowRequest("wide", 10, rows=4), now=1)
    two = Batching(max_batch_size=2)
    assert scheduler.schedule(two, 2) == []
    scheduler.release(narrow)
    assert scheduler.schedule(two, 3) == [wide]
    queued(scheduler, WindowRequest("narrow", 1), now=3)
    assert scheduler.schedule(two, 4) == []


def test_a_discarded_window_leaves_no_trace(scheduler: Scheduler[Window]) -> None:
    a = queued(scheduler, WindowRequest("a", 10), count=2)
    (b,) = queued(scheduler, WindowRequest("b", 10))
    assert scheduler.discard(a[0])
    assert scheduler.discard(b)
    assert not scheduler.discard(b)
    assert not scheduler.discard(Window(WindowRequest("unknown", 1)))
    queued(scheduler, WindowRequest("a", 10), count=3)
    assert len(scheduler.schedule(FOUR, 1)) == 4  # b is no company any more
    assert not scheduler.discard(a[1])


def test_clear_returns_what_waits_and_leaves_what_runs(scheduler: Scheduler[Window]) -> None:
    windows = queued(scheduler, WindowRequest("a", 10), count=6)
    taken = scheduler.schedule(FOUR, 0)
    assert scheduler.clear() == windows[4:]
    assert (scheduler.rows_in_use, scheduler.waiting, scheduler.schedule(FOUR, 1)) == (4, 0, [])
    for window in taken:
        scheduler.release(window)
    assert scheduler.rows_in_use == 0


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"max_batchsize": 4}, "max_batchsize"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_rows_per_job": 0}, "max_rows_per_job"),
        ({"bulk_patience_s": -1}, "bulk_patience_s"),
    ],
)
def test_a_bad_batching_config_is_named(config: dict[str, float], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Batching.model_validate(config)


class Counted(Window):
    hashed = 0

    def __hash__(self) -> int:
        Counted.hashed += 1
        return id(self)


def test_admission_looks_at_jobs_not_at_all_their_windows(scheduler: Scheduler[Window]) -> None:
    for _ in range(50):
        for job in range(200):
            claim = WindowRequest(str(job), 10)
            scheduler.add(claim, Counted(claim), 0)
    Counted.hashed = 0
    assert len(scheduler.schedule(Batching(max_batch_size=64), 1)) == 64
    assert Counted.hashed < 10 * (200 + 64)


class Admission(RuleBasedStateMachine):
    """Any order of events, beside a plain list of each job's windows in the order they are due."""

    @initialize()
    def start(self) -> None:
        self.scheduler: Scheduler[Window] = Scheduler()
        self.batching = Batching()
        self.now = 0.0
        self.fresh: dict[str, list[Window]] = defaultdict(list)
        self.retries: dict[str, list[Window]] = defaultdict(list)
        self.running: list[Window] = []

    def due(self, job: str) -> list[Window]:
        return self.retries[job] + self.fresh[job]

    def known(self) -> set[str]:
        return {job for job in (*self.fresh, *self.retries) if self.due(job)} | set(jobs(self.running))

    def rows(self, job: str | None = None) -> int:
        return sum(window.claim.rows for window in self.running if job in (None, window.claim.job))

    def fits_its_job(self, window: Window, known: int) -> bool:
        """Before it runs."""
        claim = window.claim
        held, size = self.rows(claim.job), self.batching.max_batch_size
        default = size if known == 1 else max(1, size * 3 // 4)
        caps = (self.batching.max_rows_per_job or default, claim.max_rows_per_job)
        return held == 0 or all(cap is None or held + claim.rows <= cap for cap in caps)

    def fits_the_batch(self, window: Window) -> bool:
        return self.rows() == 0 or self.rows() + window.claim.rows <= self.batching.max_batch_size

    @rule(
        claim=st.builds(
            WindowRequest,
            job=st.sampled_from("abcd"),
            seconds=st.floats(0.01, 30),
            rows=st.sampled_from([1, 1, 1, 2, 5]),
            interactive=st.booleans(),
            limit=st.none() | st.integers(1, 4),
        ),
        count=st.integers(1, 8),
        again=st.booleans(),
    )
    def add(self, claim: WindowRequest, count: int, again: bool) -> None:
        for _ in range(count):
            window = Window(claim)
            self.scheduler.add(claim, window, self.now, again)
            (self.retries if again else self.fresh)[claim.job].append(window)

    @rule(size=st.integers(1, 8), cap=st.none() | st.integers(1, 4), patience=st.sampled_from([0.0, 1.0, 30.0]))
    def reconfigure(self, size: int, cap: int | None, patience: float) -> None:
        self.batching = Batching(max_batch_size=size, max_rows_per_job=cap, bulk_patience_s=patience)

    @rule(seconds=st.floats(0.001, 60))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        known = len(self.known())
        for window in self.scheduler.schedule(self.batching, self.now):
            job = window.claim.job
            assert self.due(job)[0] is window
            assert self.fits_its_job(window, known)
            assert self.fits_the_batch(window)
            (self.retries if self.retries[job] else self.fresh)[job].pop(0)
            self.running.append(window)
        may_run = [due[0] for job in "abcd" if (due := self.due(job)) and self.fits_its_job(due[0], known)]
        assert not may_run or any(not self.fits_the_batch(window) for window in may_run)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), retry=st.booleans())
    def end(self, data: st.DataObject, retry: bool) -> None:
        window = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.scheduler.release(window)
        if retry:
            self.scheduler.add(window.claim, window, self.now, is_retry=True)
            self.retries[window.claim.job].append(window)

    @rule(data=st.data(), job=st.sampled_from("abcd"))
    def discard(self, data: st.DataObject, job: str) -> None:
        if self.due(job):
            window = data.draw(st.sampled_from(self.due(job)))
            assert self.scheduler.discard(window)
            (self.retries if window in self.retries[job] else self.fresh)[job].remove(window)
            assert not self.scheduler.discard(window)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert len(self.scheduler) == self.scheduler.waiting == sum(len(self.due(job)) for job in "abcd")
        assert self.scheduler.rows_in_use == self.rows()

    def teardown(self) -> None:
        """Everything is admitted in the end: each round admits one window at least."""
        while self.scheduler.waiting:
            before = self.scheduler.waiting
            for window in self.running:
                self.scheduler.release(window)
            self.running.clear()
            self.take()
            assert self.scheduler.waiting < before


TestAdmission = Admission.TestCase
TestAdmission.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


STEP_S = 0.01


class Simulation:
    """An engine that decodes one token of each window it holds every step, in virtual time.

    A window takes 4 tokens for each second of sound, as speech does, give or take a quarter.
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
        self.idle_row_steps = 0  # of free rows while something waited that was allowed to run
        self._random = random.Random(1)

    def submit(self, claim: WindowRequest, count: int = 1) -> None:
        for _ in range(count):
            window = Window(claim)
            self.queued_at[window] = self.now
            self.scheduler.add(claim, window, self.now)

    def step(self) -> None:
        for window in self.scheduler.schedule(self.batching, self.now):
            job = window.claim.job
            self.waits[job].append(self.now - self.queued_at.pop(window))
            self.admissions[job].append(self.now)
            self.steps_left[window] = round(window.claim.seconds * 4 * self._random.uniform(0.75, 1.25))
        self._count_idle_rows()
        self.now += STEP_S
        for window in list(self.steps_left):
            self.steps_left[window] -= 1
            if self.steps_left[window] == 0:
                del self.steps_left[window]
                self.scheduler.release(window)
                self.finished[window.claim.job] = self.now
                self.ended(window)

    def _count_idle_rows(self) -> None:
        waiting, running = set(jobs(self.queued_at)), jobs(self.steps_left)
        cap = self.batching.rows_per_job(len(waiting | set(running)))
        if any(running.count(job) < cap for job in waiting):
            self.idle_row_steps += self.batching.max_batch_size - len(running)


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


@pytest.mark.parametrize("interactive", [True, False], ids=["interactive", "bulk"])
def test_clips_and_medium_jobs_do_not_wait_for_a_three_hour_job(interactive: bool) -> None:
    simulation = Simulation(Batching(max_batch_size=16))
    clips = {f"clip{index}": 1 + index * 0.25 for index in range(80)}
    medium = {"medium0": 2.0, "medium1": 2.5, "medium2": 8.0}
    jobs_to_come = [(start, WindowRequest(job, 3), 1) for job, start in clips.items()]
    jobs_to_come += [(start, WindowRequest(job, 20), 18) for job, start in medium.items()]
    jobs_to_come.sort(key=lambda coming: coming[0])
    simulation.submit(WindowRequest("long", 10, interactive=interactive), count=1080)
    while simulation.scheduler.waiting or simulation.steps_left:
        assert simulation.now < 60
        while jobs_to_come and simulation.now >= jobs_to_come[0][0]:
            _, claim, count = jobs_to_come.pop(0)
            simulation.submit(claim, count)
        simulation.step()

    window_s = 10 * 4 * STEP_S
    assert p95([simulation.waits[clip][0] for clip in clips]) <= window_s
    for job, start in medium.items():
        assert simulation.finished[job] - start < simulation.finished["long"] / 4
    assert simulation.idle_row_steps == 0
    assert len(simulation.admissions["long"]) == 1080
    assert max(there - here for here, there in pairwise(simulation.admissions["long"])) < 5 * window_s


def test_bulk_gets_a_row_at_the_end_of_its_patience_under_constant_interactive_load() -> None:
    """Twice as many clients as rows, each of whom sends its next clip when the last is done."""
    patience = 3.0
    simulation = Simulation(
        Batching(max_batch_size=8, bulk_patience_s=patience),
        ended=lambda window: simulation.submit(window.claim) if window.claim.interactive else None,
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
