"""A short fault test; `make chaos` runs the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = 40
LIMIT_S = 900
"""It takes about 75 s on two free cores, and other tests may run beside it."""


@pytest.mark.ray
@pytest.mark.timeout(LIMIT_S + 120)
def test_no_job_or_webhook_is_lost() -> None:
    # In a process of its own, which adopts and ends all processes that the service leaves.
    command = [sys.executable, "-m", "chaos", "--jobs", str(JOBS), "--limit", str(LIMIT_S), "--stall", "300"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout[run.stdout.find("FAILED") :]
