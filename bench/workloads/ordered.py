"""Small items through two worker processes, the results in the order of the items."""

from __future__ import annotations

from functools import partial

from bench import peers
from bench.functions import consume_in_order, numbers, square
from bench.kinds import Outcome, Row, Workload, rate
from bench.workloads import small

LIMIT = "by hand: private pipes read in turn, lists of 1,000"


def check(outcome: Outcome, count: int) -> str | None:
    """All of them, and in order; items that came to warm up may be followed by a zero's result."""
    breaks = outcome.first("ended")["breaks"]
    return small.check(outcome, count) or (f"{breaks} items are out of order" if breaks else None)


WORKLOADS = (
    Workload(
        name="ordered",
        title="In order",
        about="Small items through 2 worker processes; the sink sees the results in the order of the items.",
        unit="items/s",
        rows=(
            Row(LIMIT, lambda n: peers.OrderedPipes(partial(numbers, n), square, consume_in_order)),
            Row("runner", toml=lambda n: small.toml(n, options="ordered = true", sink="InOrder")),
            *small.rows(consume_in_order, ordered=True),
        ),
        items=3_000_000,
        quick=1_500_000,
        figure=rate,
        check=check,
        limit=LIMIT,
    ),
)
