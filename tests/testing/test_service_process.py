"""Processes of a running service."""

import re
import subprocess
import sys
import time

import pytest

from testing.service_process import find_process


def test_the_age_of_a_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()", "a title of its own"], stdin=subprocess.PIPE)
    try:
        time.sleep(0.3)
        pid, age = find_process(re.escape(f"{sys.executable}\0-c\0input()\0a title of its own"))
        assert pid == child.pid
        assert age == pytest.approx(0.3, abs=0.25)
        with pytest.raises(RuntimeError, match="no process"):
            find_process("no process is called this")
    finally:
        child.communicate(b"\n")
