"""Every item goes to two tasks: `fanout = "copy"`."""

from __future__ import annotations

from functools import partial

from bench import peers
from bench.functions import consume, numbers, square
from bench.kinds import Outcome, Row, Workload, rate
from bench.workloads import small

READERS = 2


def toml(count: int) -> str:
    """Two tasks read one queue, and each gets every item."""
    readers = "".join(
        f"""
[tasks.square{number}]
call    = "bench.functions:square"
mode    = "process"
inputs  = ["numbers"]
outputs = ["squares"]
"""
        for number in range(READERS)
    )
    return f"""
[queues]
numbers = {{ fanout = "copy" }}
squares = {{}}

[tasks.numbers]
call    = "bench.functions:numbers"
with    = {{ count = {count}, workers = {READERS} }}
mode    = "process"
outputs = ["numbers"]
{readers}
[tasks.total]
call    = "bench.functions:Total"
mode    = "thread"
inputs  = ["squares"]
"""


def check(outcome: Outcome, count: int) -> str | None:
    """Everything twice."""
    total, right = outcome.first("ended")["total"], READERS * small.expected(outcome, count)
    return None if total == right else f"the sink's total is {total}, not {right}"


WORKLOADS = (
    Workload(
        name="fanout",
        title="Fan-out",
        about="Source process → a copy of every item to each of 2 tasks (a process each) → one sink.",
        unit="items/s",
        rows=(
            Row(small.LIMIT, lambda n: peers.CopyPipes(partial(numbers, n), square, consume)),
            Row("runner", toml=toml),
            Row(
                "multiprocessing.Queue, lists of 1,000 by hand",
                lambda n: peers.copies(partial(numbers, n), square, READERS, consume, size=1000),
            ),
            Row(
                "multiprocessing.Queue, one item per put",
                lambda n: peers.copies(partial(numbers, n), square, READERS, consume),
                scale=0.05,
            ),
        ),
        items=2_000_000,
        quick=800_000,
        figure=rate,
        check=check,
        limit=small.LIMIT,
    ),
)
