from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidRequest
from serve_app.jobs.cursor import from_cursor, to_cursor

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC))
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


@given(TIMES, IDS)
def test_cursor_round_trip(created_at: datetime, job_id: str) -> None:
    assert from_cursor(to_cursor((created_at, job_id))) == (created_at, job_id)


@given(TIMES, IDS)
def test_cursor_needs_no_url_quoting(created_at: datetime, job_id: str) -> None:
    assert to_cursor((created_at, job_id)).replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_invalid_cursor_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        from_cursor(text)
    assert refused.value.param == "cursor"


@given(TIMES, IDS, st.integers(), st.text())
def test_modified_cursor_is_rejected_or_valid(created_at: datetime, job_id: str, cut: int, more: str) -> None:
    try:
        at, last = from_cursor(to_cursor((created_at, job_id))[:cut] + more)
    except InvalidRequest:
        return
    assert at.tzinfo is UTC
    assert from_cursor(to_cursor((at, last))) == (at, last)
