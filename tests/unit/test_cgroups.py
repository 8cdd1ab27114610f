"""Quotas of containers, in folders that look like those of control groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runner import cgroups

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, files: dict[str, str], own: str) -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (folder / "own").write_text(own)
    return folder / "fs", folder / "own"


V1 = "12:cpu,cpuacct:/docker/ab\n3:memory:/docker/ab\n0::/\n"


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({}, "0::/\n", None),
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"cpu.max": "150000 100000"}, "0::/\n", 1.5),
        ({"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "50000 100000"}, "0::/a.slice/b\n", 0.5),
        ({"a/cpu.max": "400000 100000", "cpu.max": "200000 100000"}, "0::/a\n", 2.0),
        ({"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "-1", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000"}, V1, None),
        ({"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "300000", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000"}, V1, 3),
        ({"cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.cfs_period_us": "20000"}, "4:cpu:/\n", 1.5),
        ({"cpu.max": "nonsense"}, "0::/\n", None),
        ({"cpu.max": "1 0"}, "0::/\n", None),
        ({"cpu.max": "150000 100000"}, "nonsense", None),
    ],
)  # fmt: skip
def test_the_least_quota_around_a_process_counts(
    tmp_path: Path, files: dict[str, str], own: str, quota: float | None
) -> None:
    assert cgroups.cpu_quota(*written(tmp_path, files, own)) == quota


@pytest.mark.parametrize(("quota", "cpus"), [(None, 3), (0.2, 1), (1.0, 1), (1.5, 2), (64.0, 3)])
def test_workers_follow_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: int) -> None:
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert cgroups.usable_cpus() == cpus


def test_the_least_memory_counts(tmp_path: Path) -> None:
    files = {"memory.max": "max", "a/memory.max": "1048576", "memory/docker/ab/memory.limit_in_bytes": str(1 << 62)}
    assert cgroups.memory_limit(*written(tmp_path, files, "0::/a/b\n")) == 1048576
    assert cgroups.memory_limit(*written(tmp_path, files, V1.partition("0::")[0])) is None
