"""Counting cores, by the files of Linux inside and outside of containers."""

import os
from pathlib import Path

import pytest

from serve_app.cores import count_cores

V1 = "12:cpu,cpuacct:{0}\n4:memory:{0}\n0::/\n"
V2 = "0::{0}\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max", 8), ("800000", 8), ("1600000", 8), ("400000", 4), ("390000", 3), ("150000", 1), ("50000", 1)],
)
def test_a_quota_of_version_2(tmp_path: Path, quota: str, cores: int) -> None:
    assert count_cores(machine(tmp_path, V2.format("/"), {"cpu.max": f"{quota} 100000\n"})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2), ("100000", 1), ("1000", 1)])
@pytest.mark.parametrize("path", ["/", "/docker/0a1b", "/../outside"])
def test_a_quota_of_version_1_in_a_container(tmp_path: Path, quota: str, cores: int, path: str) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": f"{quota}\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert count_cores(machine(tmp_path, V1.format(path), files)) == cores


@pytest.mark.parametrize("mount", ["", "unified/"])
@pytest.mark.parametrize(
    ("outer", "inner", "cores"), [("300000", "max", 3), ("max", "200000", 2), ("300000", "500000", 3)]
)
def test_the_lowest_quota_of_nested_groups_applies(
    tmp_path: Path, mount: str, outer: str, inner: str, cores: int
) -> None:
    files = {
        f"{mount}kubepods.slice/cpu.max": f"{outer} 100000\n",
        f"{mount}kubepods.slice/pod/cpu.max": f"{inner} 100000\n",
        f"{mount}other/cpu.max": "100000 100000\n",
    }
    assert count_cores(machine(tmp_path, V2.format("/kubepods.slice/pod"), files)) == cores


def test_nested_groups_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n",
        "cpu,cpuacct/a/cpu.cfs_period_us": "200000\n",
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
    }
    assert count_cores(machine(tmp_path, V1.format("/a/b"), files)) == 2


def test_affinity_applies_without_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_cores(tmp_path) == 8
    assert count_cores(machine(tmp_path, V2.format("/"), {})) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert count_cores(machine(tmp_path, V2.format("/"), {"cpu.max": "400000 100000\n"})) == 1


def test_count_cores_of_this_machine() -> None:
    assert 1 <= count_cores() <= 8
