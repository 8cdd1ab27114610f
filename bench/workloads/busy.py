"""Processes fed by a main process whose other threads compute: they hold the GIL that the supervisor needs."""

from __future__ import annotations

import threading
from functools import partial

from bench import peers
from bench.files import Task, pipeline
from bench.functions import compute, consume, numbers, square
from bench.kinds import Row, Workload, rate
from bench.workloads.small import WORKERS, check

THREADS = 3
LIMIT = "runner, no other tasks"


def toml(count: int, busy: bool) -> str:
    """Source, work and sink are processes; beside them three threads of the main process, which never rest."""
    text = pipeline(
        Task("numbers", "numbers", given=f"count = {count}, workers = {WORKERS}"),
        Task("square", "square", workers=WORKERS),
        Task("total", "Total"),
    )
    return text + "\n" + Task("compute", "compute", "thread", THREADS).table([], []) if busy else text


def pool(count: int) -> None:
    """A Pool in a process with three such threads."""
    for _ in range(THREADS):
        threading.Thread(target=compute, daemon=True).start()
    peers.pool(partial(numbers, count), square, consume)


WORKLOADS = (
    Workload(
        name="busy",
        title="Processes beside busy threads",
        about=f"Small items through processes, sink included, while {THREADS} thread tasks of the same run compute.",
        unit="items/s",
        rows=(
            Row(LIMIT, toml=lambda n: toml(n, busy=False)),
            Row("runner, beside 3 busy thread tasks", toml=lambda n: toml(n, busy=True)),
            Row("Pool.imap_unordered(chunksize=1000), beside 3 busy threads", pool),
        ),
        items=1_000_000,
        quick=300_000,
        figure=rate,
        check=check,
        limit=LIMIT,
    ),
)
