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
def test_fewest_running_jobs_then_longest_wait(waiting: dict[str, object], running: dict[str, int]) -> None:
    chosen = next_owner(waiting, running)
    assert chosen in waiting
    for other in waiting:
        assert running.get(chosen, 0) <= running.get(other, 0)
        if running.get(chosen, 0) == running.get(other, 0):
            assert waiting[chosen] <= waiting[other]


@given(st.lists(OWNERS, min_size=1, max_size=60), st.integers(1, 8), st.data())
def test_owners_without_running_jobs_go_first(queue: list[str], places: int, data: st.DataObject) -> None:
    """An owner with no running job is passed over only for other owners with no running job."""
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


def test_empty_queue() -> None:
    with pytest.raises(ValueError, match="empty"):
        next_owner({}, {"a": 1})
