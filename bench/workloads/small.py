"""Small items through processes: source process → two worker processes → sink in the main process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench import peers
from bench.files import Task, pipeline
from bench.functions import WARM, Total, consume, numbers, square
from bench.kinds import Outcome, Row, Workload, rate
from bench.loops import LOOP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORKERS = 2


def toml(count: int, mode: str = "process", options: str = "", sink: str = "Total") -> str:
    """Three tasks."""
    return pipeline(
        Task("numbers", "numbers", mode, given=f"count = {count}, workers = {WORKERS}"),
        Task("square", "square", mode, WORKERS, more=options),
        Task("total", sink, "thread"),
    )


def expected(outcome: Outcome, count: int) -> int:
    """What the sink's total must be: the squares, and 1 for each zero and for each item that came to warm up."""
    squares = (count - 1) * count * (2 * count - 1) // 6 + count
    return squares + count // WARM + int(outcome.first("began")["sent"])


def check(outcome: Outcome, count: int) -> str | None:
    """The total is the proof that no item is missing and none came twice."""
    total, right = outcome.first("ended")["total"], expected(outcome, count)
    return None if total == right else f"the sink's total is {total}, not {right}"


def plain(count: int) -> None:
    """A for loop."""
    peers.plain(partial(numbers, count), square, consume)


STAGES = [(square, WORKERS)]


def rows(sink: Callable[[Iterable[int]], None], ordered: bool) -> tuple[Row, ...]:
    """The peers that map a function over an iterable."""
    pooled = "Pool.imap" if ordered else "Pool.imap_unordered"

    def length(count: int) -> int:
        return count + count // WARM

    return (
        Row(f"{pooled}(chunksize=1000)", lambda n: peers.pool(partial(numbers, n), square, sink, ordered=ordered)),
        Row("ProcessPoolExecutor.map(chunksize=1000)", lambda n: peers.executor(partial(numbers, n), square, sink)),
        Row(
            "joblib, batch_size=1000",
            lambda n: peers.parallel(partial(numbers, n), square, sink, batch=1000, ordered=ordered),
            scale=0.5,
            needs=("joblib",),
        ),
        Row(
            "joblib as documented",
            lambda n: peers.parallel(partial(numbers, n), square, sink, ordered=ordered),
            scale=0.1,
            needs=("joblib",),
        ),
        Row(
            "mpire, chunk_size=1000",
            lambda n: peers.mpire(partial(numbers, n), square, sink, length=length(n), chunk=1000, ordered=ordered),
            scale=0.1,
            needs=("mpire",),
        ),
        Row(
            "mpire as documented",
            lambda n: peers.mpire(partial(numbers, n), square, sink, length=length(n), chunk=None, ordered=ordered),
            scale=0.1,
            needs=("mpire",),
        ),
    )


def staged(stages: list[tuple[Callable[[int], int], int]]) -> tuple[Row, ...]:
    """The peers that run any chain of stages: (function, workers) of each."""
    return (
        Row(
            "pypeln, lists of 1,000 by hand",
            lambda n: peers.pypeln(partial(numbers, n), stages, consume, size=1000),
            scale=0.5,
            needs=("pypeln",),
        ),
        Row(
            "multiprocessing.Queue, one item per put",
            lambda n: peers.processes(partial(numbers, n), stages, consume),
            scale=0.05,
        ),
        Row(
            "pypeln as documented",
            lambda n: peers.pypeln(partial(numbers, n), stages, consume),
            scale=0.002,
            needs=("pypeln",),
        ),
    )


def by_item(count: int) -> None:
    """Private pipes; each item is called and answered for."""
    source, ((work, _),), sink = peers.item_by_item(partial(numbers, count), STAGES, Total)
    peers.Pipes(source, work, sink, size=1)


LIMIT = "by hand: a private pipe per worker, lists of 1,000"

WORKLOADS = (
    Workload(
        name="small",
        title="Small items through processes",
        about="`x * x + 1` of ints: source process → 2 worker processes → sink.",
        unit="items/s",
        rows=(
            Row("plain `for` loop in one process", plain),
            Row(LIMIT, lambda n: peers.Pipes(partial(numbers, n), square, consume)),
            Row("by hand: private pipes, lists of 1,000, a call for each item", by_item),
            Row("runner", toml=toml),
            Row("runner, its sink a loop", toml=partial(toml, sink=LOOP)),
            Row(
                "multiprocessing.Queue, lists of 1,000 by hand",
                lambda n: peers.processes(partial(numbers, n), STAGES, consume, size=1000),
            ),
            *rows(consume, ordered=False),
            Row(
                "faster-fifo, lists of 1,000 by hand",
                lambda n: peers.fifo(partial(numbers, n), STAGES, consume, size=1000),
                needs=("faster_fifo",),
            ),
            Row(
                "faster-fifo, one item per put",
                lambda n: peers.fifo(partial(numbers, n), STAGES, consume),
                scale=0.05,
                needs=("faster_fifo",),
            ),
            *staged(STAGES),
        ),
        items=3_000_000,
        quick=1_500_000,
        figure=rate,
        check=check,
        limit=LIMIT,
    ),
)
