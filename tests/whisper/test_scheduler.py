"""Who goes next, with a clock of our own."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.whisper.scheduler import Batching, Scheduler


def filled(**jobs: int) -> Scheduler[str]:
    scheduler: Scheduler[str] = Scheduler()
    for job, count in jobs.items():
        for index in range(count):
            scheduler.add(job, f"{job}{index}", now=0.0)
    return scheduler


def test_a_short_job_shares_the_next_batch_with_a_long_one() -> None:
    scheduler = filled(long=100)
    assert scheduler.take(4) == ["long0", "long1", "long2", "long3"]
    scheduler.add("short", "short0", now=1.0)
    assert "short0" in scheduler.take(4)


def test_jobs_take_turns_and_each_keeps_its_order() -> None:
    scheduler = filled(a=3, b=1, c=2)
    assert scheduler.take(4) == ["a0", "b0", "c0", "a1"]
    assert scheduler.take(4) == ["c1", "a2"]
    assert scheduler.take(4) == []


def test_a_turn_carries_over_to_the_next_batch() -> None:
    scheduler = filled(a=2, b=2)
    assert [scheduler.take(1) for _ in range(4)] == [["a0"], ["b0"], ["a1"], ["b1"]]


def test_a_discarded_window_leaves_no_trace() -> None:
    scheduler = filled(a=2, b=1)
    assert scheduler.discard("a", "a0")
    assert scheduler.discard("b", "b0")
    assert not scheduler.discard("b", "b0")
    assert not scheduler.discard("unknown", "x")
    assert len(scheduler) == 1
    assert scheduler.take(4) == ["a1"]


def test_an_idle_engine_waits_for_company_from_the_first_window_on() -> None:
    batching = Batching(max_batch_size=3, batch_wait_timeout_s=0.5)
    scheduler: Scheduler[str] = Scheduler()
    assert scheduler.delay(batching, idle=True, now=9.0) is None
    scheduler.add("a", "a0", now=10.0)
    assert scheduler.delay(batching, idle=True, now=10.0) == 0.5
    scheduler.add("a", "a1", now=10.25)
    assert scheduler.delay(batching, idle=True, now=10.25) == 0.25
    assert scheduler.delay(batching, idle=True, now=11.0) == 0
    scheduler.add("a", "a2", now=10.25)
    assert scheduler.delay(batching, idle=True, now=10.25) == 0


def test_a_busy_engine_goes_on_at_once() -> None:
    assert filled(a=1).delay(Batching(batch_wait_timeout_s=5), idle=False, now=0.0) == 0


def test_the_wait_starts_anew_after_the_queue_was_empty() -> None:
    batching = Batching(max_batch_size=4, batch_wait_timeout_s=1)
    scheduler = filled(a=1)
    scheduler.take(4)
    scheduler.add("a", "late", now=100.0)
    assert scheduler.delay(batching, idle=True, now=100.0) == 1


@given(
    jobs=st.lists(st.sampled_from("abcd"), max_size=40),
    sizes=st.lists(st.integers(1, 7), min_size=1),
    dropped=st.sets(st.integers(0, 39)),
)
def test_every_window_is_taken_once_in_its_jobs_order_and_jobs_wait_one_round(
    jobs: list[str], sizes: list[int], dropped: set[int]
) -> None:
    scheduler: Scheduler[int] = Scheduler()
    for window, job in enumerate(jobs):
        scheduler.add(job, window, now=0.0)
    for window in dropped & set(range(len(jobs))):
        scheduler.discard(jobs[window], window)
    kept = [window for window in range(len(jobs)) if window not in dropped]
    assert len(scheduler) == len(kept)

    taken: list[int] = []
    while len(scheduler):
        size = sizes[len(taken) % len(sizes)]
        batch = scheduler.take(size)
        assert len(batch) == min(size, len(kept) - len(taken))
        taken += batch

    assert sorted(taken) == kept
    for job in "abcd":
        mine = [index for index, window in enumerate(taken) if jobs[window] == job]
        assert [taken[index] for index in mine] == sorted(taken[index] for index in mine)
        for here, there in pairwise(mine):
            between = [jobs[window] for window in taken[here + 1 : there]]
            assert len(between) == len(set(between))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"max_batchsize": 4}, "max_batchsize"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"batch_wait_timeout_s": -1}, "batch_wait_timeout_s"),
    ],
)
def test_a_bad_batching_config_is_named(config: dict[str, float], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Batching.model_validate(config)
