"""Small items through threads: source → two workers → sink, all in one process."""

from __future__ import annotations

import queue
import threading
from typing import Any

from bench.functions import lists, numbers, square, stamp
from bench.kinds import Row, Workload, rate
from bench.workloads.small import END, WORKERS, check, plain, toml


def queues(count: int, size: int, kind: Any) -> None:
    """A queue between threads; size 1: an item for each put."""

    def source() -> None:
        for item in numbers(count) if size == 1 else lists(numbers(count), size):
            first.put(item)
        for _ in range(WORKERS):
            first.put(END)

    def worker() -> None:
        while (item := first.get()) is not END:
            second.put(square(item) if size == 1 else [square(each) for each in item])
        second.put(END)

    first, second = kind(), kind()
    crew = [threading.Thread(target=worker) for _ in range(WORKERS)] + [threading.Thread(target=source)]
    for each in crew:
        each.start()
    running, total = WORKERS, 0
    while running:
        item = second.get()
        if item is END:
            running -= 1
        elif size == 1:
            total += item
        else:
            for one in item:
                total += one
    stamp("ended", total=total)


WORKLOADS = (
    Workload(
        name="threads",
        title="Small items through threads",
        about="The same work in the threads of one process.",
        unit="items/s",
        rows=(
            Row("plain `for` loop", plain),
            Row("runner", toml=lambda count: toml(count, "thread")),
            Row("SimpleQueue, lists of 1,000 by hand", lambda count: queues(count, 1000, queue.SimpleQueue)),
            Row("queue.Queue, one item per put", lambda count: queues(count, 1, lambda: queue.Queue(1000)), scale=0.05),
        ),
        items=2_000_000,
        quick=600_000,
        figure=rate,
        check=check,
        limit="plain `for` loop",
    ),
)
