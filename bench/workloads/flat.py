"""Memory of long runs: it must not grow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench import peers
from bench.functions import consume, numbers, square
from bench.kinds import Outcome, Row, Workload, rate
from bench.workloads import arrays, small

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


def growth(outcome: Outcome, column: int) -> float:
    """MB by which the peak of the run's last third is above the peak of its first third, the start left out."""
    began, ended = outcome.first("began")["at"], outcome.all("ended")[-1]["at"]
    third = (ended - began) / 3
    early = [each[column] for each in outcome.series if began + third / 10 <= each[0] <= began + third]
    late = [each[column] for each in outcome.series if ended - third <= each[0] <= ended]
    return (max(late) - max(early)) / MIB if early and late else float("nan")


EXTRA: dict[str, Callable[[Outcome, int], float]] = {
    "growth, all MB": lambda outcome, _: growth(outcome, 2),
    "peak, main MB": lambda outcome, _: outcome.main_peak / MIB,
}
LIMIT = "by hand: a private pipe per worker, lists of 1,000"

WORKLOADS = (
    Workload(
        name="flat",
        title="Memory over 10 million items",
        about="Small items through processes. Growth: the peak of the last third less that of the first third.",
        unit="growth, main MB",
        rows=(
            Row("runner", toml=small.toml),
            Row(LIMIT, lambda n: peers.Pipes(partial(numbers, n), square, consume)),
            Row(
                "Pool.imap_unordered(chunksize=1000)",
                lambda n: peers.pool(partial(numbers, n), square, consume),
            ),
        ),
        items=10_000_000,
        quick=3_000_000,
        figure=lambda outcome, _: growth(outcome, 1),
        extra={**EXTRA, "items/s": rate},
        check=small.check,
        smaller=True,
        timeout=300,
    ),
    Workload(
        name="flat-arrays",
        title="Memory over 10,000 arrays of 1 MiB",
        about="Arrays through three processes. Growth as above.",
        unit="growth, main MB",
        rows=(
            Row("runner", toml=lambda n: arrays.toml(n, MIB), needs=("numpy",)),
            Row(arrays.LIMIT, arrays.by("ring", MIB), needs=("numpy",)),
        ),
        items=10_000,
        quick=2_000,
        figure=lambda outcome, _: growth(outcome, 1),
        extra={**EXTRA, "MB/s": lambda outcome, count: arrays.megabytes(outcome, count, MIB)},
        check=lambda outcome, count: arrays.check(outcome, count, MIB),
        smaller=True,
        timeout=300,
    ),
)
