"""numpy arrays through three processes: source → one that changes a number → sink."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bench import peers
from bench.files import Task, pipeline
from bench.functions import WARM
from bench.kinds import Outcome, Row, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = "by hand: a ring of 16 slots of shared memory"


def toml(count: int, size: int) -> str:
    """Three processes."""
    return pipeline(
        Task("arrays", "bench.arrays:arrays", given=f"count = {count}, size = {size}, workers = 1"),
        Task("change", "bench.arrays:change"),
        Task("weigh", "bench.arrays:Weighed"),
    )


def check(outcome: Outcome, count: int, size: int) -> str | None:
    """Each number came once, in every place of its array but the changed one."""
    ended, items = outcome.first("ended"), count + count // WARM
    right = {"items": items, "total": count * (count + 1) // 2 * (size // 8 - 1) - items}
    wrong = [f"{name} {ended[name]}, not {value}" for name, value in right.items() if ended[name] != value]
    return "; ".join(wrong) or None


def megabytes(outcome: Outcome, count: int, size: int) -> float:
    """Millions of bytes a second, counted once however many hops they make."""
    return count * size / outcome.between() / 1e6


def by(way: str, array_bytes: int, **options: Any) -> Callable[[int], None]:
    """A contender's function; numpy is imported in its own process only."""

    def run(count: int) -> None:
        from bench import arrays

        source, work, sink = partial(arrays.arrays, count, array_bytes), arrays.change, arrays.weigh
        given = {key: count + count // WARM if value == "all" else value for key, value in options.items()}
        if way in {"alone", "ring", "raw_pipe"}:
            getattr(arrays, way)(count, array_bytes)
        elif way in {"processes", "fifo", "pypeln"}:
            getattr(peers, way)(source, [(work, 1)], sink, **given)
        else:
            getattr(peers, way)(source, work, sink, **given)

    return run


def workload(name: str, title: str, size: int, items: int, quick: int) -> Workload:
    """One size."""
    one = {"workers": 1}
    fifo_mb = max(64, 8 * size >> 20)
    return Workload(
        name=name,
        title=f"Arrays of {title}",
        about=f"numpy arrays of {title}: source process → a process that changes one number → sink process.",
        unit="MB/s",
        rows=(
            Row("make, copy, change, weigh in one process", by("alone", size), needs=("numpy",)),
            Row(LIMIT, by("ring", size), needs=("numpy",)),
            Row("runner", toml=lambda count: toml(count, size), needs=("numpy",)),
            Row("os.pipe, raw bytes, one hop", by("raw_pipe", size), needs=("numpy",)),
            Row("a private pipe, pickles", by("Pipes", size, size=1, **one), scale=0.5, needs=("numpy",)),
            Row("multiprocessing.Queue", by("processes", size, bound=16), scale=0.3, needs=("numpy",)),
            Row("faster-fifo", by("fifo", size, mb=fifo_mb), scale=0.3, needs=("numpy", "faster_fifo")),
            Row("pypeln", by("pypeln", size, bound=16), scale=0.3, needs=("numpy", "pypeln")),
            Row("Pool.imap_unordered(chunksize=1)", by("pool", size, chunk=1, **one), scale=0.2, needs=("numpy",)),
            Row("ProcessPoolExecutor.map", by("executor", size, chunk=1, **one), scale=0.2, needs=("numpy",)),
            Row("joblib", by("parallel", size, workers=2), scale=0.1, needs=("numpy", "joblib")),
            Row("mpire", by("mpire", size, length="all", chunk=1, **one), scale=0.1, needs=("numpy", "mpire")),
        ),
        items=items,
        quick=quick,
        figure=lambda outcome, count: megabytes(outcome, count, size),
        check=lambda outcome, count: check(outcome, count, size),
        limit=LIMIT,
    )


WORKLOADS = (
    workload("arrays-64k", "64 KiB", 64 << 10, 20_000, 6_000),
    workload("arrays-1m", "1 MiB", 1 << 20, 2_000, 600),
    workload("arrays-16m", "16 MiB", 16 << 20, 150, 50),
)
