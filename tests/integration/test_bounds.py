"""A sink a hundred times slower than its source: the source waits, by `size` and by `bytes`, and memory stays flat.

The overshoot is what is in flight: what the sink's worker was granted (about ten milliseconds of its work, and a
megabyte), and for each worker of the source, the message that is under way and the one that it is filling, of
a megabyte at most each.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from topology_runs import USES_KIT, Finished, make, run, task_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers import Running

MIB = 1024 * 1024

PLUGIN = (
    USES_KIT
    + """
import os
import time
from runner import Outbox, task


def counted(name, items, weight):
    file = os.open(f"{name}.made", os.O_WRONLY | os.O_CREAT)
    try:
        for number in range(items):
            os.pwrite(file, number.to_bytes(8, "little"), 0)  # before it is yielded: nobody may see it earlier
            yield number, os.urandom(8) * (weight // 8)
    finally:
        os.close(file)


@task
def quick(name, items, weight):
    yield from counted(name, items, weight)


@task
def quick_boxed(name, items, weight, *, q: Outbox):
    for item in counted(name, items, weight):
        q.put(item)


@task
async def quick_async(name, items, weight):
    for item in counted(name, items, weight):
        yield item


@task
def swap(item):
    number, load = item
    return number, load[::-1]


@task
class Slow:
    \"\"\"Writes down how far the source was ahead of it at most.\"\"\"

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.file = os.open(f"{self.name}.made", os.O_RDONLY | os.O_CREAT)
        self.most = self.done = 0

    def __call__(self, item):
        time.sleep(0.001)
        self.done += 1
        self.most = max(self.most, int.from_bytes(os.pread(self.file, 8, 0), "little") + 1 - self.done)

    def __exit__(self, *error):
        os.close(self.file)
        note(f"{self.name}.ahead", f"{self.most} {self.done}")
"""
)
FILES = {"plugins/bounds.py": PLUGIN}
ITEMS, HEAVY = 400, 50_000


def line(name: str, call: str, items: int, weight: int, *between: str) -> dict[str, dict[str, Any]]:
    """A quick source, perhaps something between, and a slow sink."""
    tasks = {name: {"call": call, "args": [name, items, weight], "outputs": f"{name}0"}}
    for number, each in enumerate(between):
        tasks[f"{name}_{each}"] = {"call": each, "inputs": f"{name}{number}", "outputs": f"{name}{number + 1}"}
    tasks[f"{name}_slow"] = {"call": "Slow", "args": [name], "inputs": f"{name}{len(between)}"}
    return tasks


@pytest.fixture(scope="module", params=["thread", "process"])
def ran(request, tmp_path_factory) -> Finished:
    """Seven lines beside each other: they mostly sleep."""
    tasks: dict[str, dict[str, Any]] = {}
    queues: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        tasks |= line(f"{call}_size", call, ITEMS, 8)
        queues[f"{call}_size0"] = {"size": 40}
        tasks |= line(f"{call}_bytes", call, ITEMS, HEAVY)
        queues[f"{call}_bytes0"] = {"size": 100_000, "bytes": "2MB"}
    tasks |= line("chain", "quick", ITEMS, 8, "swap")
    queues |= {"chain0": {"size": 20}, "chain1": {"size": 20}}
    tasks |= line("one", "quick", ITEMS // 4, 8)
    queues |= {"one0": {"size": 1}}
    return run(tmp_path_factory.mktemp(request.param), task_file(tasks, queues, mode=request.param), FILES).ok()


CALLS = ("quick", "quick_boxed", "quick_async")
#: Items that the sink's worker may have been granted, at a millisecond each: two chunks of 50 ms, or as many as the
#: queue holds; and one item for each worker.
GRANTED = 2 * 40 + 2


def ahead(ran: Finished, name: str, items: int = ITEMS) -> int:
    """How many items the source was ahead of the sink, at most."""
    (text,) = ran.lines(f"{name}.ahead")
    most, done = map(int, text.split())
    assert done == items
    return most


@pytest.mark.parametrize("call", CALLS)
def test_by_size_the_source_waits(ran, call):
    assert 40 <= ahead(ran, f"{call}_size") <= 40 + GRANTED


@pytest.mark.parametrize("call", CALLS)
def test_by_bytes_the_source_waits(ran, call):
    in_flight = 4 * MIB  # a chunk of the source under way, one in the making, two with the reader
    assert 2 * MIB <= ahead(ran, f"{call}_bytes") * HEAVY <= 2 * MIB + in_flight + 3 * HEAVY


def test_the_source_waits_through_a_chain(ran):
    assert 20 <= ahead(ran, "chain") <= 2 * 20 + 2 * GRANTED


def test_a_queue_of_size_one_holds_one(ran):
    assert ahead(ran, "one", ITEMS // 4) <= 1 + 2, "one in the queue, one with each worker"


# --- memory ---------------------------------------------------------------------------------------------------------


def peak(running: Running) -> int:
    """Watch the run until it has ended; the sum of what each of its processes had resident at most."""
    most: dict[int, int] = {}
    while running.process.poll() is None:
        most.update(high_water(running.process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(0.02)
    return sum(most.values())


def high_water(pid: int) -> Iterator[tuple[int, int]]:
    """The kernel's own high-water mark of a process and all under it, which misses nothing between two looks."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                marks = [line for line in status.splitlines() if line.startswith("VmHWM:")]
                yield from ((process.pid, int(mark.split()[1]) * 1024) for mark in marks)  # a zombie has none


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the kernel's high-water marks")
@pytest.mark.parametrize("mode", [pytest.param("process", marks=pytest.mark.slow), "thread"])
def test_memory_stays_flat(tmp_path, mode):
    few, weight = 200, 100_000

    def memory(items: int) -> int:
        tasks = {**line("size", "quick", items, weight, "swap"), **line("bytes", "quick", items, weight, "swap")}
        queues = {f"size{number}": {"size": 20} for number in (0, 1)}
        queues |= {f"bytes{number}": {"size": 100_000, "bytes": "2MB"} for number in (0, 1)}
        running = make(tmp_path / str(items), task_file(tasks, queues, mode=mode), FILES).start("tasks.toml")
        most = peak(running)
        assert running.finish().exit == 0
        return most

    short, long = memory(few), memory(5 * few)
    all_of_them = 2 * 4 * few * weight
    assert long - short < all_of_them / 5, f"{short / MIB:.0f} MiB, then {long / MIB:.0f} MiB"
