"""Opaque cursors of job lists."""

import base64
import re
from datetime import UTC, datetime, timedelta

from serve_app.errors import InvalidRequest

Position = tuple[datetime, str]
"""Creation time and id of the last job seen."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = re.compile(r"([0-9a-f]{1,14})\.([A-Za-z0-9._-]{1,128})")


def to_cursor(position: Position) -> str:
    """Return the cursor for jobs older than `position`."""
    created_at, job_id = position
    microseconds = (created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds:x}.{job_id}".encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> Position:
    """Return the position that a cursor encodes. Raises InvalidRequest for any other text."""
    try:
        plain = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars="-_", validate=True).decode()
    except ValueError:
        plain = ""
    match = _PLAIN.fullmatch(plain)
    if match is None:
        raise InvalidRequest("cursor is invalid: use the next_cursor of the previous page", "cursor")
    return _EPOCH + timedelta(microseconds=int(match[1], 16)), match[2]
