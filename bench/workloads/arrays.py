"""numpy arrays through three processes: source → one that changes a number, or all → sink."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bench import peers
from bench.files import Task, pipeline
from bench.functions import WARM
from bench.kinds import Outcome, Row, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

#: Functions of `bench.arrays`, and what each does.
WORKS = {"change": "changes one number", "rewrite": "changes all numbers, in place where it may"}
LIMIT = "by hand: a ring of 16 slots of shared memory"


def toml(count: int, size: int, work: str = "change") -> str:
    """Three processes."""
    return pipeline(
        Task("arrays", "bench.arrays:arrays", given=f"count = {count}, size = {size}, workers = 1"),
        Task("change", f"bench.arrays:{work}"),
        Task("weigh", "bench.arrays:Weighed"),
    )


def check(outcome: Outcome, count: int, size: int, work: str = "change") -> str | None:
    """Each number came once, in every place of its array but the changed one; or its negative, in every place."""
    ended, items = outcome.first("ended"), count + count // WARM
    made = count * (count + 1) // 2
    right = {"items": items, "total": made * (size // 8 - 1) - items if work == "change" else -made * (size // 8)}
    wrong = [f"{name} {ended[name]}, not {value}" for name, value in right.items() if ended[name] != value]
    return "; ".join(wrong) or None


def megabytes(outcome: Outcome, count: int, size: int) -> float:
    """Millions of bytes a second, counted once however many hops they make."""
    return count * size / outcome.between() / 1e6


def by(way: str, array_bytes: int, work: str = "change", **options: Any) -> Callable[[int], None]:
    """A contender's function; numpy is imported in its own process only."""

    def run(count: int) -> None:
        from bench import arrays

        source, sink = partial(arrays.arrays, count, array_bytes), arrays.weigh
        function = getattr(arrays, work)
        given = {key: count + count // WARM if value == "all" else value for key, value in options.items()}
        if way in {"alone", "ring", "raw_pipe"}:
            getattr(arrays, way)(count, array_bytes, function)
        elif way in {"processes", "fifo", "pypeln"}:
            getattr(peers, way)(source, [(function, 1)], sink, **given)
        else:
            getattr(peers, way)(source, function, sink, **given)

    return run


def workload(name: str, title: str, size: int, items: int, quick: int, work: str = "change") -> Workload:
    """One size, and one kind of work."""
    one = {"workers": 1}
    size_text = title.partition(",")[0]
    fifo_mb = max(64, 8 * size >> 20)
    return Workload(
        name=name,
        title=f"Arrays of {title}",
        about=f"numpy arrays of {size_text}: source process → a process that {WORKS[work]} → sink process.",
        unit="MB/s",
        rows=(
            Row("make, copy, change, weigh in one process", by("alone", size, work), needs=("numpy",)),
            Row(LIMIT, by("ring", size, work), needs=("numpy",)),
            Row("runner", toml=lambda count: toml(count, size, work), needs=("numpy",)),
            Row("os.pipe, raw bytes, one hop", by("raw_pipe", size, work), needs=("numpy",)),
            Row("a private pipe, pickles", by("Pipes", size, work, size=1, **one), scale=0.5, needs=("numpy",)),
            Row("multiprocessing.Queue", by("processes", size, work, bound=16), scale=0.3, needs=("numpy",)),
            Row("faster-fifo", by("fifo", size, work, mb=fifo_mb), scale=0.3, needs=("numpy", "faster_fifo")),
            Row("pypeln", by("pypeln", size, work, bound=16), scale=0.3, needs=("numpy", "pypeln")),
            Row(
                "Pool.imap_unordered(chunksize=1)", by("pool", size, work, chunk=1, **one), scale=0.2, needs=("numpy",)
            ),
            Row("ProcessPoolExecutor.map", by("executor", size, work, chunk=1, **one), scale=0.2, needs=("numpy",)),
            Row("joblib", by("parallel", size, work, workers=2), scale=0.1, needs=("numpy", "joblib")),
            Row("mpire", by("mpire", size, work, length="all", chunk=1, **one), scale=0.1, needs=("numpy", "mpire")),
        ),
        items=items,
        quick=quick,
        figure=lambda outcome, count: megabytes(outcome, count, size),
        check=lambda outcome, count: check(outcome, count, size, work),
        limit=LIMIT,
    )


WORKLOADS = (
    workload("arrays-64k", "64 KiB", 64 << 10, 20_000, 6_000),
    workload("arrays-1m", "1 MiB", 1 << 20, 2_000, 600),
    workload("arrays-16m", "16 MiB", 16 << 20, 150, 50),
    workload("arrays-rewritten", "1 MiB, rewritten", 1 << 20, 2_000, 600, "rewrite"),
)
