"""Small items through a chain of four processes: source → three stages of one process each → sink."""

from __future__ import annotations

from functools import partial

from bench import peers
from bench.files import Task, pipeline
from bench.functions import WARM, Total, add_one, consume, numbers
from bench.kinds import Outcome, Row, Workload, rate
from bench.loops import LOOP
from bench.workloads.small import staged

DEPTH = 3
STAGES = [(add_one, 1)] * DEPTH


def toml(count: int, sink: str = "Total") -> str:
    """Five tasks."""
    stages = [Task(f"stage{number}", "add_one") for number in range(1, DEPTH + 1)]
    source = Task("numbers", "numbers", given=f"count = {count}, workers = 1")
    return pipeline(source, *stages, Task("total", sink, "thread"))


def check(outcome: Outcome, count: int) -> str | None:
    """Each item has grown by one in each stage; one that came to warm up is 0 after the first."""
    total, sent = outcome.first("ended")["total"], outcome.first("began")["sent"]
    right = count * (count - 1) // 2 + DEPTH * (count + count // WARM) + (DEPTH - 1) * sent
    return None if total == right else f"the sink's total is {total}, not {right}"


LIMIT = "by hand: private pipes, lists of 1,000"

WORKLOADS = (
    Workload(
        name="chain",
        title="A chain of four processes",
        about="`x + 1` of ints: source process → 3 stages of one process each → sink.",
        unit="items/s",
        rows=(
            Row(LIMIT, lambda n: peers.processes(partial(numbers, n), STAGES, consume, size=1000, pipes=True)),
            Row(
                "by hand: private pipes, lists of 1,000, a call for each item",
                lambda n: peers.processes(*peers.item_by_item(partial(numbers, n), STAGES, Total), pipes=True),
            ),
            Row("runner", toml=toml),
            Row("runner, its sink a loop", toml=partial(toml, sink=LOOP)),
            Row(
                "multiprocessing.Queue, lists of 1,000 by hand",
                lambda n: peers.processes(partial(numbers, n), STAGES, consume, size=1000),
            ),
            Row(
                "Pools of one process, imap(chunksize=1000)",
                lambda n: peers.pools(partial(numbers, n), [add_one] * DEPTH, consume),
            ),
            Row(
                "faster-fifo, lists of 1,000 by hand",
                lambda n: peers.fifo(partial(numbers, n), STAGES, consume, size=1000),
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
