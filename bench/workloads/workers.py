"""What a chunk costs the supervisor, and a worker the machine: 1 to 64 workers, one item in each chunk."""

from __future__ import annotations

from bench.files import Task, pipeline
from bench.kinds import Outcome, Row, Workload
from bench.workloads.cpu import check

#: Items that long are handed out one by one.
SECONDS = 0.04
NUMBERS = (1, 2, 4, 8, 16, 32, 64)
LIMIT = "runner, 2 workers"


def toml(count: int, workers: int) -> str:
    """Three tasks; source and sink are threads of the main process, whose CPU time the sink reads."""
    return pipeline(
        Task("source", "even", "thread", given=f"count = {count}, seconds = {SECONDS}, workers = {workers}"),
        Task("nap", "nap", workers=workers),
        Task("clocked", "Clocked", "thread"),
    )


def per_chunk(outcome: Outcome, count: int) -> float:
    """Microseconds of the supervisor's CPU time for each chunk, the source's and the sink's threads included."""
    return float(outcome.first("ended")["cpu"] - outcome.first("first")["cpu"]) / count * 1e6


def started(outcome: Outcome, _: int) -> float:
    """Seconds until every worker had executed an item."""
    return float(outcome.first("began")["at"]) - outcome.began


def spent(outcome: Outcome, _: int) -> float:
    """The CPU time of everything."""
    return outcome.cpu


def row(workers: int) -> Row:
    """So many workers, each with as many items as every other."""
    name = f"runner, {workers} worker{'s' * (workers > 1)}"
    return Row(name, toml=lambda count: toml(count, workers), scale=workers)


WORKLOADS = (
    Workload(
        name="workers",
        title="1 to 64 workers",
        about=f"Items that sleep for {SECONDS * 1000:.0f} ms, so that each one is a chunk of its own: "
        "what a chunk costs the supervisor (µs of its CPU time), and how long it takes until all workers are at work.",
        unit="µs / chunk",
        rows=tuple(row(workers) for workers in NUMBERS),
        items=80,
        quick=30,
        figure=per_chunk,
        extra={"all at work s": started},
        check=check,
        limit=LIMIT,
        smaller=True,
    ),
)
