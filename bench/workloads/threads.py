"""Small items through threads: source → two workers → sink, all in one process."""

from __future__ import annotations

from functools import partial

from bench import peers
from bench.functions import Total, consume, numbers, square
from bench.kinds import Row, Workload, rate
from bench.loops import LOOP
from bench.workloads.small import STAGES, check, plain, toml

LIMIT = "plain `for` loop"

WORKLOADS = (
    Workload(
        name="threads",
        title="Small items through threads",
        about="The same work in the threads of one process: source → 2 workers → sink.",
        unit="items/s",
        rows=(
            Row(LIMIT, plain),
            Row("runner", toml=lambda n: toml(n, "thread")),
            Row("runner, its sink a loop", toml=lambda n: toml(n, "thread", sink=LOOP)),
            Row(
                "SimpleQueue, lists of 1,000 by hand",
                lambda n: peers.threads(partial(numbers, n), STAGES, consume, size=1000, simple=True),
            ),
            Row(
                "SimpleQueue, lists of 1,000 by hand, a call for each item",
                lambda n: peers.threads(*peers.item_by_item(partial(numbers, n), STAGES, Total), simple=True),
            ),
            Row(
                "queue.Queue, one item per put",
                lambda n: peers.threads(partial(numbers, n), STAGES, consume),
                scale=0.05,
            ),
            Row(
                "ThreadPoolExecutor.map",
                lambda n: peers.thread_executor(partial(numbers, n), square, consume),
                scale=0.05,
            ),
            Row(
                "pypeln as documented",
                lambda n: peers.pypeln(partial(numbers, n), STAGES, consume, kind="thread"),
                scale=0.05,
                needs=("pypeln",),
            ),
            Row(
                "pypeln, lists of 1,000 by hand",
                lambda n: peers.pypeln(partial(numbers, n), STAGES, consume, kind="thread", size=1000),
                needs=("pypeln",),
            ),
        ),
        items=3_000_000,
        quick=1_500_000,
        figure=rate,
        check=check,
        limit=LIMIT,
    ),
)
