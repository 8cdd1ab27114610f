"""What a chunk costs the supervisor, and a worker the machine: 1 to 64 workers, one item in each chunk."""

from __future__ import annotations

from bench.files import Task, pipeline
from bench.kinds import Outcome, Row, Workload

#: Items that long are handed out one by one.
SECONDS = 0.04
QUICK = 30
NUMBERS = (1, 2, 4, 8, 16, 32, 64)
LIMIT = "runner, 2 workers"


def toml(count: int, workers: int) -> str:
    """The source is a thread of the main process, and so is the task that comes last: they read its CPU time."""
    return pipeline(
        Task("source", "even", "thread", given=f"count = {count}, seconds = {SECONDS}, workers = {workers}"),
        Task("nap", "nap", workers=workers),
    ) + Task("clock", "bench.stamps:nothing", "thread", more='after = ["nap"]').table([], [])


def check(outcome: Outcome, _: int) -> str | None:
    """Nobody sleeps faster: each worker had at least as many items as in a quick run."""
    least = QUICK * SECONDS
    return None if outcome.between() >= least else f"{outcome.between():.2f} s, and it must take {least:.2f} s"


def per_chunk(outcome: Outcome, count: int) -> float:
    """Microseconds of the main process's CPU time for each chunk, the source's thread included."""
    return float(outcome.first("ended")["cpu"] - outcome.first("began")["cpu"]) / count * 1e6


def started(outcome: Outcome, _: int) -> float:
    """Seconds until every worker had executed an item."""
    return float(outcome.first("began")["at"]) - outcome.began


def row(workers: int) -> Row:
    """So many workers, each with as many items as every other."""
    name = f"runner, {workers} worker{'s' * (workers > 1)}"
    return Row(name, toml=lambda count: toml(count, workers), scale=workers)


WORKLOADS = (
    Workload(
        name="workers",
        title="1 to 64 workers",
        about=f"Items that sleep for {SECONDS * 1000:.0f} ms, so that each one is a chunk of its own: "
        "what a chunk costs the main process (µs of CPU time, the source's thread included), and how long until "
        "all workers are at work. With few workers the fixed costs of the run weigh most.",
        unit="µs / chunk",
        rows=tuple(row(workers) for workers in NUMBERS),
        items=80,
        quick=QUICK,
        figure=per_chunk,
        extra={"all at work s": started},
        check=check,
        limit=LIMIT,
        smaller=True,
    ),
)
