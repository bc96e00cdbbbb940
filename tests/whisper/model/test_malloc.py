"""Freed memory is retained: measured by the page faults of allocating it again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from serve_app.whisper.model.malloc import retain_freed_memory
if {retain}: retain_freed_memory()
def work(): [torch.ones(size * 1_000_000) for size in (3, 1, 2, 10)]
for _ in range(10): work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(retain: bool) -> int:
    process = subprocess.run(
        [sys.executable, "-c", FAULTS.format(retain=retain)], check=True, capture_output=True, text=True
    )
    return int(process.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these settings")
def test_reused_memory_causes_no_page_faults() -> None:
    assert faults(retain=True) * 5 < faults(retain=False)
