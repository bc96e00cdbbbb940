"""The number of CPU cores this process may use, and how long its OpenMP threads spin while they wait."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SPIN_COUNT = 1000
"""Iterations of the loop in which a thread of GNU's OpenMP waits: about 50 µs. Measured with two threads on two cores,
bfloat16, for a clip of 11 s:

                        whisper-base    CPU time    whisper-nano    whisper-base, busy machine (1 or 2 runs)
    300,000 (default)         1.15 s       2.2 s          0.21 s                                     123 s
    10,000                    1.13 s       2.2 s          0.22 s                                     5.4 s
    1,000                     1.04 s       1.7 s          0.24 s                                     7.7 s
    none (passive)            1.09 s       1.7 s          0.25 s                                     4.2 s
"""


def count_cores(root: Path = Path("/")) -> int:
    """Return the number of cores this process may keep busy: limited by its affinity and its cgroups' CPU quotas.

    Fractions of a core are rounded down: when threads use up a quota, all of them are stopped for the rest of its
    period (usually 100 ms), in the middle of shared work. The fraction is left for the process's other threads. At
    least 1.
    """
    quotas = [int(quota) for quota in _cgroup_quotas(root)]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def limit_openmp_spinning() -> None:
    """Limit how long OpenMP threads spin while they wait for each other. Call it before torch is imported.

    GNU's OpenMP, which torch uses on Linux, reads this environment variable once, when it is loaded. A value that the
    operator has set is not changed. By default a thread spins for about 14 ms: when other processes use the cores,
    spinning threads keep the threads that they wait for from running.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of this process's control groups and of their ancestors."""
    mounts = root / "sys/fs/cgroup"
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # cgroup version 2, alone or together with version 1
            folders = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [mounts / controllers]
        else:
            continue
        # In a container the path may be the host's, while the mount is the container's own group: then only `/` exists.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            for folder in folders:
                yield from _read_quota(folder / group.relative_to("/"))


def _read_quota(folder: Path) -> Iterator[float]:
    """Yield the quota of a control group in cores, if it has one."""
    content = (
        _read_text(folder / "cpu.max")
        or f"{_read_text(folder / 'cpu.cfs_quota_us')} {_read_text(folder / 'cpu.cfs_period_us')}"
    )
    match content.split():
        case [quota, period] if quota.isdecimal():  # without a quota it is "max", or -1 in version 1
            yield int(quota) / int(period)


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # not Linux, or the controller is not available
        return ""
