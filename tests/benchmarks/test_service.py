"""What the service benchmark makes of its measurements."""

import re
import subprocess
import sys
import time

import pytest

from testing.service_process import process
from benchmarks.service import percentiles


def test_percentiles() -> None:
    assert percentiles([step / 100 for step in range(101)]) == {"clips": 101, "p50": 0.5, "p95": 0.95}
    with pytest.raises(RuntimeError, match="after 1 clips"):
        percentiles([1.0])


def test_the_age_of_a_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()", "a title of its own"], stdin=subprocess.PIPE)
    try:
        time.sleep(0.3)
        pid, age = process(re.escape(f"{sys.executable}\0-c\0input()\0a title of its own"))
        assert pid == child.pid
        assert age == pytest.approx(0.3, abs=0.25)
        with pytest.raises(RuntimeError, match="no process"):
            process("no process is called this")
    finally:
        child.communicate(b"\n")
