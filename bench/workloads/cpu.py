"""CPU-bound items on two cores: all of one cost, and a few that cost two thousand times as much."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

from bench import peers
from bench.files import Task, pipeline
from bench.functions import LONG_ITEM, consume, even, skewed, skewed_costs, spin
from bench.kinds import Outcome, Row, Workload
from bench.stamps import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORKERS = 2
SECONDS = 0.003
LIMIT = "by hand: the items shared out beforehand, knowing their costs"


def check(outcome: Outcome, count: int) -> str | None:
    """The sink counts them."""
    total = outcome.first("ended")["total"]
    return None if total == count else f"the sink has {total} items, not {count}"


def efficiency(outcome: Outcome, count: int) -> float:
    """Which part of two cores did the items' own work."""
    return count * SECONDS / WORKERS / outcome.between()


def overlong(outcome: Outcome, count: int) -> float:
    """The time it took, divided by the time it must take on two cores."""
    return outcome.between() * WORKERS / sum(skewed_costs(count))


def beforehand(costs: list[float]) -> None:
    """The ideal: two processes, each of which is given half the work and says what it has done when it has ended."""

    def part(mine: list[float]) -> None:
        end.send(sum(spin(cost) for cost in mine))

    fork = multiprocessing.get_context("fork")
    read, end = fork.Pipe(duplex=False)
    ordered = sorted(costs)
    stamp("began")
    crew = [fork.Process(target=part, args=(ordered[turn::WORKERS],)) for turn in range(WORKERS)]
    for each in crew:
        each.start()
    consume(read.recv() for _ in crew)


def toml(source: str, given: str) -> str:
    """Three tasks."""
    return pipeline(
        Task("source", source, "thread", given=f"{given}, workers = {WORKERS}"),
        Task("spin", "spin", workers=WORKERS),
        Task("total", "Total", "thread"),
    )


def rows(source: Callable[[int], Iterable[float]], chunks: tuple[int, ...]) -> tuple[Row, ...]:
    """The peers; `chunks` are the sizes of chunk worth trying by hand."""

    def of(count: int) -> Callable[[], Iterable[float]]:
        return lambda: source(count)

    stages = [(spin, WORKERS)]
    mapped = [
        row
        for size in chunks
        for row in (
            Row(
                f"ProcessPoolExecutor.map(chunksize={size})",
                lambda n, size=size: peers.executor(of(n), spin, consume, chunk=size),
            ),
            Row(
                f"Pool.imap_unordered(chunksize={size})",
                lambda n, size=size: peers.pool(of(n), spin, consume, chunk=size),
            ),
        )
    ]
    return (
        *mapped,
        Row("multiprocessing.Queue, one item per put", lambda n: peers.processes(of(n), stages, consume)),
        Row("joblib as documented", lambda n: peers.parallel(of(n), spin, consume), needs=("joblib",)),
        Row(
            "mpire as documented",
            lambda n: peers.mpire(of(n), spin, consume, length=n, chunk=None),
            needs=("mpire",),
        ),
        Row("pypeln as documented", lambda n: peers.pypeln(of(n), stages, consume), needs=("pypeln",)),
    )


def evenly(count: int) -> Iterable[float]:
    """Items of 3 ms."""
    return even(count, SECONDS)


WORKLOADS = (
    Workload(
        name="cpu",
        title="CPU-bound items of 3 ms",
        about="Each item keeps a core busy for 3 ms; 2 worker processes. Efficiency: the items' share of two cores.",
        unit="efficiency",
        rows=(
            Row(LIMIT, lambda n: beforehand([SECONDS] * n)),
            Row("runner", toml=lambda n: toml("even", f"count = {n}, seconds = {SECONDS}")),
            *rows(evenly, (1, 10)),
        ),
        items=1000,
        quick=400,
        figure=efficiency,
        check=check,
        limit=LIMIT,
    ),
    Workload(
        name="skewed",
        title="Skewed items",
        about=f"1 % of the items take {LONG_ITEM * 1000:.0f} ms of CPU, 2,000 times as long as the others; "
        "2 worker processes. The time divided by the ideal.",
        unit="time / ideal",
        rows=(
            Row(LIMIT, lambda n: beforehand(skewed_costs(n))),
            Row("runner", toml=lambda n: toml("skewed", f"count = {n}")),
            *rows(skewed, (1, 20, 200)),
        ),
        items=10_000,
        quick=5_000,
        figure=overlong,
        check=check,
        limit=LIMIT,
        smaller=True,
    ),
)
