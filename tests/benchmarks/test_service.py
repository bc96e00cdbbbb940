"""The arithmetic of the service benchmark."""

import pytest

from benchmarks.service import percentiles


def test_percentiles() -> None:
    assert percentiles([step / 100 for step in range(101)]) == {"clips": 101, "p50": 0.5, "p95": 0.95}
    with pytest.raises(RuntimeError, match="after 1 clips"):
        percentiles([1.0])
