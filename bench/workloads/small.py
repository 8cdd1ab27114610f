"""Small items through processes: source process → two worker processes → sink in the main process."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from typing import Any

from bench.functions import consume, expected_squares, lists, numbers, square, stamp
from bench.kinds import Outcome, Row, Workload, rate

WORKERS = 2
END = None


def toml(count: int, mode: str = "process") -> str:
    return f"""
[queues]
numbers = {{}}
squares = {{}}

[tasks.numbers]
call    = "bench.functions:numbers"
with    = {{ count = {count} }}
mode    = "{mode}"
outputs = ["numbers"]

[tasks.square]
call    = "bench.functions:square"
mode    = "{mode}"
workers = {WORKERS}
inputs  = ["numbers"]
outputs = ["squares"]

[tasks.total]
call    = "bench.functions:Total"
mode    = "thread"
inputs  = ["squares"]
"""


def plain(count: int) -> None:
    """No concurrency at all: a for loop."""
    consume(square(item) for item in numbers(count))


def pipes(count: int) -> None:
    """The practical bound: a private pipe to and from each worker, pickled lists of 1,000."""

    def source(ends: list[Any]) -> None:
        for turn, chunk in enumerate(lists(numbers(count))):
            ends[turn % WORKERS].send(chunk)
        for end in ends:
            end.send(END)

    def worker(read: Any, write: Any) -> None:
        while (chunk := read.recv()) is not END:
            write.send([square(item) for item in chunk])
        write.send(END)

    inward = [multiprocessing.Pipe(duplex=False) for _ in range(WORKERS)]
    outward = [multiprocessing.Pipe(duplex=False) for _ in range(WORKERS)]
    crew = [
        multiprocessing.Process(target=worker, args=(read, write))
        for (read, _), (_, write) in zip(inward, outward, strict=True)
    ]
    crew.append(multiprocessing.Process(target=source, args=([write for _, write in inward],)))
    for each in crew:
        each.start()
    reading, total = [read for read, _ in outward], 0
    while reading:
        for read in connection.wait(reading):
            chunk = read.recv()  # type: ignore[union-attr]
            if chunk is END:
                reading.remove(read)  # type: ignore[arg-type]
            else:
                for item in chunk:
                    total += item
    stamp("ended", total=total)
    for each in crew:
        each.join()


def queues(count: int, size: int) -> None:
    """multiprocessing.Queue; size 1: an item for each put, as everybody writes it."""

    def source(out: Any) -> None:
        if size == 1:
            for item in numbers(count):
                out.put(item)
        else:
            for chunk in lists(numbers(count), size):
                out.put(chunk)
        for _ in range(WORKERS):
            out.put(END)

    def worker(inp: Any, out: Any) -> None:
        while (item := inp.get()) is not END:
            out.put(square(item) if size == 1 else [square(each) for each in item])
        out.put(END)

    first: Any = multiprocessing.Queue(1000)
    second: Any = multiprocessing.Queue(1000)
    crew = [multiprocessing.Process(target=worker, args=(first, second)) for _ in range(WORKERS)]
    crew.append(multiprocessing.Process(target=source, args=(first,)))
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
            for each in item:
                total += each
    stamp("ended", total=total)
    for process in crew:
        process.join()


def pool(count: int) -> None:
    with multiprocessing.Pool(WORKERS) as workers:
        consume(workers.imap_unordered(square, numbers(count), chunksize=1000))


def executor(count: int) -> None:
    with ProcessPoolExecutor(WORKERS) as workers:
        consume(workers.map(square, numbers(count), chunksize=1000))


def check(outcome: Outcome, count: int) -> str | None:
    total, expected = outcome.first("ended")["total"], expected_squares(count)
    return None if total == expected else f"the sink's total is {total}, not {expected}"


WORKLOADS = (
    Workload(
        name="small",
        title="Small items through processes",
        about="`x * x + 1` of ints: source process → 2 worker processes → sink.",
        unit="items/s",
        rows=(
            Row("plain `for` loop in one process", plain),
            Row("by hand: a private pipe per worker, lists of 1,000", pipes),
            Row("runner", toml=toml),
            Row("multiprocessing.Queue, lists of 1,000 by hand", lambda count: queues(count, 1000)),
            Row("multiprocessing.Queue, one item per put", lambda count: queues(count, 1), scale=0.05),
            Row("Pool.imap_unordered(chunksize=1000)", pool),
            Row("ProcessPoolExecutor.map(chunksize=1000)", executor),
        ),
        items=2_000_000,
        quick=600_000,
        figure=rate,
        check=check,
        limit="by hand: a private pipe per worker, lists of 1,000",
    ),
)
