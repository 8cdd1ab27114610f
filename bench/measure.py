"""Run a command in a fresh process and account for it: wall and CPU time and peak memory of the whole tree.

CPU time is the operating system's own count of everything that ended (`RUSAGE_CHILDREN`): while it measures,
this process adopts the orphans of what it started, so no worker escapes the sum; so are page faults and context
switches. Memory is sampled, twice: the resident
sets of the tree added up, shared pages counted in each process, as every monitor shows them; and less often their
proportional shares (PSS), each page counted once, as the machine has it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kinds import Outcome
from bench.stamps import STAMPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.kinds import Row, Stamp, Workload

ROOT = Path(__file__).resolve().parent.parent
_INTERVAL = 0.05
#: The kernel walks all pages of a process for its PSS, 0.5 to 1 ms for each.
_PSS_INTERVAL = 0.2
_SETTLE = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SUBREAPER = 36
#: What containers set and users do not: without bytecode, every start would compile every module again.
_NOT_AS_USERS = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of our descendants' orphans, so that they are seen, ended and counted."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_SUBREAPER, 0, 0, 0, 0)


def children(pid: int) -> list[int]:
    """The living children of a process, by the kernel's word."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(each) for each in (thread / "children").read_text().split()]
    return found


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:
        found += children(each)
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """Return the proportional set size of a process; 0 where the kernel does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class _Sampler(threading.Thread):
    """Adds up the resident memory of everything that is our child, now and then."""

    def __init__(self, main: int, before: set[int]) -> None:
        super().__init__(daemon=True)
        self.main, self.before = main, before
        self.series: list[tuple[float, int, int]] = []
        self.pss = 0
        self.done = threading.Event()

    def run(self) -> None:
        pause, next_pss = 0.004, 0.0
        while not self.done.wait(pause):
            pause = min(_INTERVAL, 1.5 * pause)
            here = _resident(self.main)
            others = [pid for child in set(children(os.getpid())) - self.before for pid in tree(child)]
            now = time.monotonic()
            self.series.append((now, here, sum(_resident(pid) for pid in others)))
            if now >= next_pss:
                self.pss = max(self.pss, sum(_proportional(pid) for pid in others))
                next_pss = time.monotonic() + _PSS_INTERVAL


def run(
    command: Sequence[str],
    stamps: Path,
    timeout: float,
    env: dict[str, str] | None = None,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Run a command to its end, or end it after `timeout` seconds; nothing that it started is left alive.

    `meanwhile` is called with its pid once it runs.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), STAMPS: str(stamps), **(env or {})}
    for name in _NOT_AS_USERS:
        environment.pop(name, None)
    with _adopting(), tempfile.TemporaryFile() as output:
        before = set(children(os.getpid()))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        sampler = _Sampler(process.pid, before)
        sampler.start()
        result: int | str
        meanwhile(process.pid)
        if ended_within(process.pid, timeout):
            result = process.wait()
        else:
            result = f"no end after {timeout:g} s"
            end_tree(process.pid)
            process.wait()
        wall = time.monotonic() - began
        orphans = _bury(before)
        sampler.done.set()
        sampler.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        output.seek(0)
        text = output.read()[-20_000:].decode(errors="replace")
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    main_peak, peak = (max((each[column] for each in sampler.series), default=0) for column in (1, 2))
    faults = after.ru_minflt + after.ru_majflt - used.ru_minflt - used.ru_majflt
    switches = after.ru_nvcsw + after.ru_nivcsw - used.ru_nvcsw - used.ru_nivcsw
    sampled = (sampler.series, sampler.pss)
    return Outcome(
        wall, cpu, peak, main_peak, result, read_stamps(stamps), began, orphans, text, *sampled, faults, switches
    )


def ended_within(pid: int, timeout: float) -> bool:
    """Whether a child of ours ended in time; at once when it did. (`Popen.wait(timeout)` looks every 50 ms.)"""
    handle = os.pidfd_open(pid)
    try:
        return bool(select.select([handle], [], [], timeout)[0])
    finally:
        os.close(handle)


def end_tree(pid: int) -> None:
    """SIGKILL to a process and all its descendants."""
    for each in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _bury(before: set[int]) -> int:
    """Wait a moment for what the ended process left behind, then end it; how many did not end by themselves."""
    limit = time.monotonic() + _SETTLE
    stubborn: set[int] = set()
    while left := set(children(os.getpid())) - before:
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > limit:
            for pid in left:
                stubborn |= set(tree(pid))
                end_tree(pid)
        time.sleep(0.002)
    return len(stubborn)


def read_stamps(stamps: Path) -> list[Stamp]:
    """Return the moments that processes have noted in a file so far."""
    if not stamps.exists():
        return []
    return [json.loads(line) for line in stamps.read_text().splitlines()]


def contender(workload: Workload, row: Row, count: int, timeout: float | None = None) -> Outcome:
    """One row of a workload, once."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = [sys.executable, "-m", "bench.one", workload.name, row.name, str(count)]
        if row.command:
            command = list(row.command)
        elif row.toml is not None:
            file = Path(folder, "tasks.toml")
            file.write_text(f'[run]\nstate = "{folder}/state"\n{row.toml(count)}')
            command = [sys.executable, "-m", "runner", "run", str(file), "-q"]
        return run(command, Path(folder, "stamps"), timeout or workload.timeout)
