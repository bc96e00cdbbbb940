"""The CPU cores of this process, and how long its threads keep them when they wait for one another."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SPINS = 1000
"""Of a loop in GNU's OpenMP: some 50 µs. Measured with two threads on two cores, bfloat16, for a clip of 11 s:

                        whisper-base    CPU time    whisper-nano    whisper-base, busy machine (1 or 2 runs)
    300,000 (default)         1.15 s       2.2 s          0.21 s                                     123 s
    10,000                    1.13 s       2.2 s          0.22 s                                     5.4 s
    1,000                     1.04 s       1.7 s          0.24 s                                     7.7 s
    none (passive)            1.09 s       1.7 s          0.25 s                                     4.2 s
"""


def count_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may keep busy: by its affinity, and by the CPU quotas of its control groups.

    Part of a core does not count: threads that use up a quota are all stopped for the rest of its period, usually of
    100 ms, in the middle of what they share. What is left over is for the process's other threads. At least 1.
    """
    quotas = [int(quota) for quota in _quotas(root)]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def spin_briefly() -> None:
    """Have OpenMP's threads give up their cores soon while they wait for one another. Call it before torch is imported.

    GNU's OpenMP, torch's on Linux, reads this once, when it is loaded; a setting of the operator's stays. Without one
    a thread spins for about 14 ms: where anything else runs on the cores, the threads that spin keep those they wait
    for from running.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of the control groups that this process is in, and of the groups around those."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            folders = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [mounts / controllers]
        else:
            continue
        # In a container the path may be the host's, where the mount is the container's own group: then only that is.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            for folder in folders:
                yield from _quota(folder / group.relative_to("/"))


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one group in cores, if it has one."""
    written = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    match written.split():
        case [quota, period] if quota.isdecimal():  # without one it is "max", or -1 in version 1
            yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no Linux, or no such controller here
        return ""
