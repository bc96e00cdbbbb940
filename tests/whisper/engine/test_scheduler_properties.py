"""The scheduler's invariants under any order of events, and its cost."""

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest
from tests.whisper.engine.scheduling import Window, job_names


class CountingWindow(Window):
    hash_calls = 0

    def __hash__(self) -> int:
        CountingWindow.hash_calls += 1
        return id(self)


def test_scheduling_cost_depends_on_jobs_not_on_windows() -> None:
    scheduler: Scheduler[Window] = Scheduler()
    for _ in range(50):
        for job in range(200):
            request = WindowRequest(str(job), 10)
            scheduler.add(request, CountingWindow(request), 0)
    CountingWindow.hash_calls = 0
    assert len(scheduler.schedule(Batching(max_batch_size=64), 1)) == 64
    assert CountingWindow.hash_calls < 10 * (200 + 64)


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of events, checked against plain lists of each job's windows in the order they are due."""

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

    def jobs(self) -> set[str]:
        return {job for job in (*self.fresh, *self.retries) if self.due(job)} | set(job_names(self.running))

    def rows(self, job: str | None = None) -> int:
        return sum(window.request.rows for window in self.running if job in (None, window.request.job))

    def fits_its_job(self, window: Window, job_count: int) -> bool:
        """Return whether the window may run, by the limits of its job."""
        request = window.request
        rows_in_use, size = self.rows(request.job), self.batching.max_batch_size
        default = size if job_count == 1 else max(1, size * 3 // 4)
        caps = (self.batching.max_rows_per_job or default, request.max_rows_per_job)
        return rows_in_use == 0 or all(cap is None or rows_in_use + request.rows <= cap for cap in caps)

    def fits_the_batch(self, window: Window) -> bool:
        return self.rows() == 0 or self.rows() + window.request.rows <= self.batching.max_batch_size

    @rule(
        request=st.builds(
            WindowRequest,
            job=st.sampled_from("abcd"),
            seconds=st.floats(0.01, 30),
            rows=st.sampled_from([1, 1, 1, 2, 5]),
            interactive=st.booleans(),
            max_rows_per_job=st.none() | st.integers(1, 4),
        ),
        count=st.integers(1, 8),
        again=st.booleans(),
    )
    def add(self, request: WindowRequest, count: int, again: bool) -> None:
        for _ in range(count):
            window = Window(request)
            self.scheduler.add(request, window, self.now, again)
            (self.retries if again else self.fresh)[request.job].append(window)

    @rule(size=st.integers(1, 8), cap=st.none() | st.integers(1, 4), patience=st.sampled_from([0.0, 1.0, 30.0]))
    def reconfigure(self, size: int, cap: int | None, patience: float) -> None:
        self.batching = Batching(max_batch_size=size, max_rows_per_job=cap, bulk_patience_s=patience)

    @rule(seconds=st.floats(0.001, 60))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        job_count = len(self.jobs())
        for window in self.scheduler.schedule(self.batching, self.now):
            job = window.request.job
            assert self.due(job)[0] is window
            assert self.fits_its_job(window, job_count)
            assert self.fits_the_batch(window)
            (self.retries if self.retries[job] else self.fresh)[job].pop(0)
            self.running.append(window)
        may_run = [due[0] for job in "abcd" if (due := self.due(job)) and self.fits_its_job(due[0], job_count)]
        assert not may_run or any(not self.fits_the_batch(window) for window in may_run)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), retry=st.booleans())
    def end(self, data: st.DataObject, retry: bool) -> None:
        window = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.scheduler.release(window)
        if retry:
            self.scheduler.add(window.request, window, self.now, is_retry=True)
            self.retries[window.request.job].append(window)

    @rule(data=st.data(), job=st.sampled_from("abcd"))
    def discard(self, data: st.DataObject, job: str) -> None:
        if self.due(job):
            window = data.draw(st.sampled_from(self.due(job)))
            assert self.scheduler.discard(window)
            (self.retries if window in self.retries[job] else self.fresh)[job].remove(window)
            assert not self.scheduler.discard(window)

    @invariant()
    def no_window_is_lost_or_duplicated(self) -> None:
        assert len(self.scheduler) == sum(len(self.due(job)) for job in "abcd")
        assert self.scheduler.rows_in_use == self.rows()

    def teardown(self) -> None:
        """All windows are scheduled in the end: each round schedules at least one."""
        while len(self.scheduler):
            before = len(self.scheduler)
            for window in self.running:
                self.scheduler.release(window)
            self.running.clear()
            self.take()
            assert len(self.scheduler) < before


TestSchedulerMachine = SchedulerMachine.TestCase


TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
