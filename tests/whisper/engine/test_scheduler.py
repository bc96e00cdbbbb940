"""The scheduler's policy: the order in which windows get free rows."""

import pytest
from pydantic import ValidationError

from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest
from tests.whisper.engine.scheduling import FOUR_ROWS, Window, job_names, queue_windows


@pytest.fixture
def scheduler() -> Scheduler[Window]:
    return Scheduler()


def test_single_job_uses_all_rows_in_order(scheduler: Scheduler[Window]) -> None:
    windows = queue_windows(scheduler, WindowRequest("a", 10), count=6)
    assert scheduler.schedule(FOUR_ROWS, 0) == windows[:4]
    assert (scheduler.rows_in_use, len(scheduler)) == (4, 2)
    assert scheduler.schedule(FOUR_ROWS, 1) == []
    scheduler.release(windows[2])
    assert scheduler.rows_in_use == 3
    assert scheduler.schedule(FOUR_ROWS, 2) == windows[4:5]


@pytest.mark.parametrize(("rows", "cap"), [(1, 1), (2, 1), (3, 2), (4, 3), (16, 12), (64, 48)])
def test_default_row_limit_with_several_jobs(rows: int, cap: int) -> None:
    assert Batching(max_batch_size=rows).rows_per_job(1) == rows
    assert Batching(max_batch_size=rows).rows_per_job(2) == cap
    assert Batching(max_batch_size=rows, max_rows_per_job=5).rows_per_job(1) == 5


def test_a_job_is_limited_while_another_waits_or_runs(scheduler: Scheduler[Window]) -> None:
    (short,) = queue_windows(scheduler, WindowRequest("short", 3))
    queue_windows(scheduler, WindowRequest("long", 10), count=9)
    assert job_names(scheduler.schedule(FOUR_ROWS, 0)) == ["short", "long", "long", "long"]
    scheduler.release(short)
    assert job_names(scheduler.schedule(FOUR_ROWS, 1)) == ["long"]


def test_max_rows_per_job_limits_a_single_job_too(scheduler: Scheduler[Window]) -> None:
    queue_windows(scheduler, WindowRequest("a", 10), count=6)
    assert len(scheduler.schedule(Batching(max_batch_size=4, max_rows_per_job=2), 0)) == 2


def test_limit_and_new_ranks_in_each_call(scheduler: Scheduler[Window]) -> None:
    queue_windows(scheduler, WindowRequest("long", 10), count=6)
    assert job_names(scheduler.schedule(FOUR_ROWS, 0, limit=2)) == ["long", "long"]
    queue_windows(scheduler, WindowRequest("short", 3), now=1)
    assert job_names(scheduler.schedule(FOUR_ROWS, 2, limit=1)) == ["short"]


def test_interactive_only_skips_bulk_jobs_until_their_patience_ends(scheduler: Scheduler[Window]) -> None:
    queue_windows(scheduler, WindowRequest("bulk", 10, interactive=False), count=3)
    assert scheduler.schedule(FOUR_ROWS, 1, interactive_only=True) == []
    assert not scheduler.is_serving_interactive
    (clip,) = queue_windows(scheduler, WindowRequest("clip", 3), now=1)
    assert scheduler.schedule(FOUR_ROWS, 2, interactive_only=True) == [clip]
    assert scheduler.is_serving_interactive
    scheduler.release(clip)
    assert not scheduler.is_serving_interactive
    patience = FOUR_ROWS.bulk_patience_s
    assert job_names(scheduler.schedule(FOUR_ROWS, patience, limit=1, interactive_only=True)) == ["bulk"], (
        "bulk jobs are not starved"
    )


@pytest.mark.parametrize(("limit", "rows"), [(1, 1), (2, 2), (9, 3)])
def test_the_lower_of_both_row_limits_applies(scheduler: Scheduler[Window], limit: int, rows: int) -> None:
    queue_windows(scheduler, WindowRequest("a", 10, max_rows_per_job=limit), count=6)
    assert len(scheduler.schedule(Batching(max_batch_size=4, max_rows_per_job=3), 0)) == rows


def test_interactive_jobs_come_before_shorter_bulk_jobs(scheduler: Scheduler[Window]) -> None:
    queue_windows(scheduler, WindowRequest("bulk", 2, interactive=False))
    queue_windows(scheduler, WindowRequest("live", 30), count=3, now=29)
    assert job_names(scheduler.schedule(FOUR_ROWS, 29)) == ["live", "live", "live", "bulk"]


def test_the_highest_response_ratio_goes_first(scheduler: Scheduler[Window]) -> None:
    one = Batching(max_batch_size=1)
    queue_windows(scheduler, WindowRequest("long", 50), count=2)  # at 60: (60 + 100) / 100
    queue_windows(scheduler, WindowRequest("early", 10), now=55)  # (5 + 10) / 10
    queue_windows(scheduler, WindowRequest("late", 10), now=57)  # (3 + 10) / 10
    first = scheduler.schedule(one, 60)
    assert job_names(first) == ["long"]
    scheduler.release(first[0])  # its other window: (60 + 50) / 50
    order = []
    while scheduled := scheduler.schedule(one, 60):
        order += job_names(scheduled)
        scheduler.release(scheduled[0])
    assert order == ["long", "early", "late"]


def test_shorter_of_simultaneous_jobs_goes_first(scheduler: Scheduler[Window]) -> None:
    queue_windows(scheduler, WindowRequest("long", 20))
    queue_windows(scheduler, WindowRequest("short", 5))
    assert job_names(scheduler.schedule(FOUR_ROWS, 0)) == ["short", "long"]


def test_the_minimum_cost_of_a_window_is_one_second(scheduler: Scheduler[Window]) -> None:
    queue_windows(scheduler, WindowRequest("second", 1), now=0)
    queue_windows(scheduler, WindowRequest("blip", 0.01), now=1)
    assert job_names(scheduler.schedule(FOUR_ROWS, 2)) == ["second", "blip"]


def test_retry_goes_to_the_front_of_its_job(scheduler: Scheduler[Window]) -> None:
    request = WindowRequest("a", 10)
    fresh = queue_windows(scheduler, request, count=2)
    retries = [Window(request), Window(request)]
    for now, retry in enumerate(retries, start=8):
        scheduler.add(request, retry, now, is_retry=True)
    (other,) = queue_windows(scheduler, WindowRequest("b", 10), now=9)  # at 10: (1 + 10) / 10, against (10 + 40) / 40
    assert scheduler.schedule(Batching(max_batch_size=1), 10) == retries[:1]
    assert scheduler.schedule(Batching(max_batch_size=5), 10) == [retries[1], fresh[0], other]
    scheduler.release(other)
    assert scheduler.schedule(Batching(max_batch_size=5), 10) == fresh[1:]


def test_discarded_audio_does_not_count_as_cost(scheduler: Scheduler[Window]) -> None:
    long = queue_windows(scheduler, WindowRequest("long", 50), count=2)
    queue_windows(scheduler, WindowRequest("short", 10), now=50)  # at 60: (10 + 10) / 10, against (60 + 50) / 50
    scheduler.discard(long[0])
    assert scheduler.schedule(FOUR_ROWS, 60)[:1] == long[1:]


def test_a_window_can_be_queued_again(scheduler: Scheduler[Window]) -> None:
    (window,) = queue_windows(scheduler, WindowRequest("a", 10))
    for now in range(3):
        assert scheduler.schedule(FOUR_ROWS, now) == [window]
        scheduler.release(window)
        scheduler.add(window.request, window, now, is_retry=True)
    assert (scheduler.rows_in_use, len(scheduler)) == (0, 1)


def test_bulk_job_after_its_patience(scheduler: Scheduler[Window]) -> None:
    batching = Batching(max_batch_size=1, bulk_patience_s=30)
    queue_windows(scheduler, WindowRequest("bulk", 10, interactive=False), count=100)
    queue_windows(scheduler, WindowRequest("live", 100), now=29)
    (live,) = scheduler.schedule(batching, 29.9)
    assert live.request.job == "live"
    scheduler.release(live)
    queue_windows(scheduler, WindowRequest("elder", 10), now=29.9)
    queue_windows(scheduler, WindowRequest("younger", 10), now=30.1)
    order = []
    for _ in range(4):  # after its first window, bulk has to wait again
        (scheduled,) = scheduler.schedule(batching, 40)
        order.append(scheduled.request.job)
        scheduler.release(scheduled)
    assert order == ["elder", "bulk", "younger", "bulk"]


def test_windows_with_fewer_rows_do_not_overtake_a_blocked_window(scheduler: Scheduler[Window]) -> None:
    running = queue_windows(scheduler, WindowRequest("running", 10), count=2)
    scheduler.schedule(FOUR_ROWS, 0)
    (wide,) = queue_windows(scheduler, WindowRequest("wide", 10, rows=3), now=1)
    narrow = queue_windows(scheduler, WindowRequest("narrow", 10), count=3, now=2)
    assert scheduler.schedule(FOUR_ROWS, 3) == []
    scheduler.release(running[0])
    assert scheduler.schedule(FOUR_ROWS, 4) == [wide]
    assert scheduler.rows_in_use == 4
    scheduler.release(wide)
    assert scheduler.schedule(FOUR_ROWS, 5) == narrow


def test_window_above_the_limit_of_its_job(scheduler: Scheduler[Window]) -> None:
    batching = Batching(max_batch_size=4, max_rows_per_job=2)
    first, second = queue_windows(scheduler, WindowRequest("wide", 10, rows=3), count=2)
    narrow = queue_windows(scheduler, WindowRequest("narrow", 30))
    assert scheduler.schedule(batching, 0) == [first, *narrow]
    scheduler.release(narrow[0])
    assert scheduler.schedule(batching, 1) == []
    scheduler.release(first)
    assert scheduler.schedule(batching, 2) == [second]


def test_a_window_with_more_rows_than_the_batch_runs_alone(scheduler: Scheduler[Window]) -> None:
    (narrow,) = queue_windows(scheduler, WindowRequest("narrow", 1))
    scheduler.schedule(FOUR_ROWS, 0)
    (wide,) = queue_windows(scheduler, WindowRequest("wide", 10, rows=4), now=1)
    two = Batching(max_batch_size=2)
    assert scheduler.schedule(two, 2) == []
    scheduler.release(narrow)
    assert scheduler.schedule(two, 3) == [wide]
    queue_windows(scheduler, WindowRequest("narrow", 1), now=3)
    assert scheduler.schedule(two, 4) == []


def test_a_discarded_window_is_forgotten(scheduler: Scheduler[Window]) -> None:
    a = queue_windows(scheduler, WindowRequest("a", 10), count=2)
    (b,) = queue_windows(scheduler, WindowRequest("b", 10))
    assert scheduler.discard(a[0])
    assert scheduler.discard(b)
    assert not scheduler.discard(b)
    assert not scheduler.discard(Window(WindowRequest("unknown", 1)))
    queue_windows(scheduler, WindowRequest("a", 10), count=3)
    assert len(scheduler.schedule(FOUR_ROWS, 1)) == 4  # job b is gone
    assert not scheduler.discard(a[1])


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"max_batchsize": 4}, "max_batchsize"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_rows_per_job": 0}, "max_rows_per_job"),
        ({"bulk_patience_s": -1}, "bulk_patience_s"),
    ],
)
def test_an_invalid_batching_option_is_named(config: dict[str, float], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Batching.model_validate(config)
