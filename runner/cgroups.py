"""The processors and the memory that a container leaves its processes (control groups, versions 1 and 2).

`os.cpu_count` and the affinity of a process know nothing of a quota: a container with one processor of 64 would start
64 workers, which then wait for their turns.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")
#: What version 1 says where there is no limit: the largest number of pages.
_NO_LIMIT = 1 << 60


def usable_cpus() -> int:
    """Return how many processors this process may keep busy: those it may run on, as far as its quota reaches.

    >>> usable_cpus() >= 1
    True
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path = _ROOT, own: Path = _SELF) -> float | None:
    """Return the processors that the quota of this process's group allows, 1.5 for one and a half; None: no quota."""
    found = []
    for folder in _group_folders("cpu", root, own):
        if (text := _read_line(folder / "cpu.max")) and not text.startswith("max"):
            found += _quotient(*text.partition(" ")[::2])
        found += _quotient(_read_line(folder / "cpu.cfs_quota_us"), _read_line(folder / "cpu.cfs_period_us"))
    return min(found, default=None)


def memory_limit(root: Path = _ROOT, own: Path = _SELF) -> int | None:
    """Return the bytes that the processes of this process's group may use together; None: no limit."""
    found = []
    for folder in _group_folders("memory", root, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read_line(folder / name)
            found += [int(text)] if text.isdecimal() and int(text) < _NO_LIMIT else []
    return min(found, default=None)


def _group_folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of those around it, whose limits hold as well."""
    try:
        lines = own.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controllers, root / controller]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for top in tops:
            yield from (top / part for part in (inner, *inner.parents))


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _quotient(quota: str, period: str) -> list[float]:
    if quota.isdecimal() and period.isdecimal() and int(period):
        return [int(quota) / int(period)]
    return []
