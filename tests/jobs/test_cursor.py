from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidRequest
from serve_app.jobs.cursor import from_cursor, to_cursor

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC))


@given(TIMES, st.uuids())
def test_a_cursor_leads_back_to_its_position(created_at: datetime, job_id: UUID) -> None:
    assert from_cursor(to_cursor((created_at, job_id.hex))) == (created_at, job_id.hex)


@given(TIMES, st.uuids())
def test_a_cursor_needs_no_quoting_in_a_url(created_at: datetime, job_id: UUID) -> None:
    assert to_cursor((created_at, job_id.hex)).replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        from_cursor(text)
    assert refused.value.param == "cursor"


@given(TIMES, st.uuids(), st.data())
def test_a_cursor_that_was_cut_is_refused(created_at: datetime, job_id: UUID, data: st.DataObject) -> None:
    cursor = to_cursor((created_at, job_id.hex))
    with pytest.raises(InvalidRequest):
        from_cursor(cursor[: data.draw(st.integers(0, len(cursor) - 1))])


@given(TIMES, st.uuids(), st.text(min_size=1))
def test_a_cursor_with_more_in_it_is_refused(created_at: datetime, job_id: UUID, more: str) -> None:
    with pytest.raises(InvalidRequest):
        from_cursor(to_cursor((created_at, job_id.hex + more)))
