from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.jobs.fair_queue import next_owner
from tests.jobs.helpers import NOW

OWNERS = st.sampled_from("abcdef")
SINCE = st.integers(0, 5).map(lambda age: NOW + timedelta(seconds=age))


@given(st.dictionaries(OWNERS, SINCE, min_size=1), st.dictionaries(OWNERS, st.integers(0, 5)))
def test_who_has_least_is_next_then_who_waits_longest(waiting: dict[str, object], running: dict[str, int]) -> None:
    chosen = next_owner(waiting, running)
    assert chosen in waiting
    for other in waiting:
        assert running.get(chosen, 0) <= running.get(other, 0)
        if running.get(chosen, 0) == running.get(other, 0):
            assert waiting[chosen] <= waiting[other]


@given(st.lists(OWNERS, min_size=1, max_size=60), st.integers(1, 8), st.data())
def test_nobody_waits_longer_than_for_the_jobs_that_run(queue: list[str], places: int, data: st.DataObject) -> None:
    """Who has nothing running when a place gets free is passed over only for others who have nothing either."""
    waiting = [(owner, NOW + timedelta(seconds=age)) for age, owner in enumerate(queue)]
    running: list[str] = []
    while waiting:
        if len(running) == places:
            running.pop(data.draw(st.integers(0, places - 1)))
        first = dict(reversed(waiting))
        chosen = next_owner(first, Counter(running))
        if set(first) - set(running):
            assert chosen not in running
        waiting.remove((chosen, first[chosen]))
        running.append(chosen)


def test_nobody_waits() -> None:
    with pytest.raises(ValueError, match="empty"):
        next_owner({}, {"a": 1})
