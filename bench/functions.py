"""The functions under measurement: the same ones for every contender. Light, because workers import it."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.stamps import has_stamped, stamp, workers_seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: One small item in so many goes ahead, unmeasured.
WARM = 10


class Warm:
    """An item that makes its worker known, so that a source can wait until all workers are there.

    >>> Warm.touch = lambda self: None
    >>> square(Warm()), add_one(Warm())
    (1, 0)
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def touch(self) -> None:
        """Say which worker this is."""
        stamp("warm", worker=threading.get_native_id())
        time.sleep(self.seconds)

    def __mul__(self, other: object) -> int:
        self.touch()
        return 0

    def __add__(self, other: object) -> int:
        self.touch()
        return 0


def warming(workers: int) -> Iterator[Warm]:
    """Items to begin with, until `workers` workers have executed one: what is measured then is no start-up.

    They take longer than the pause between them, so that the next one goes to another worker.
    """
    limit = time.monotonic() + 20
    while len(workers_seen()) < workers and time.monotonic() < limit:
        yield Warm(0.004 * workers)
        time.sleep(0.001)


# --- small items


def numbers(count: int, workers: int = 0) -> Iterator[int | Warm]:
    """The source of small items: when all `workers` are there a tenth ahead, and then the clock starts."""
    sent = 0
    for warm in warming(workers):
        yield warm
        sent += 1
    yield from itertools.repeat(0, count // WARM)
    stamp("began", sent=sent)
    yield from range(count)


def square(item: Any) -> int:
    """The work on a small item."""
    return item * item + 1  # type: ignore[no-any-return]


def add_one(item: Any) -> int:
    """The work of one stage of a chain."""
    return item + 1  # type: ignore[no-any-return]


def consume(results: Iterable[int]) -> None:
    """The sink of small items, as a loop."""
    total = 0
    for item in results:
        total += item
    stamp("ended", total=total)


class Total:
    """The sink of small items, as a task: it adds them up."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, item: int) -> None:
        self.total += item

    def __enter__(self) -> Total:
        return self

    def __exit__(self, *exc: object) -> None:
        stamp("ended", total=self.total)


def consume_in_order(results: Iterable[int]) -> None:
    """The sink that looks at the order, as a loop."""
    total = last = breaks = 0
    for item in results:
        breaks += item < last
        last = item
        total += item
    stamp("ended", total=total, breaks=breaks)


class InOrder:
    """The sink that looks at the order, as a task."""

    def __init__(self) -> None:
        self.total = self.last = self.breaks = 0

    def __call__(self, item: int) -> None:
        self.breaks += item < self.last
        self.last = item
        self.total += item

    def __enter__(self) -> InOrder:
        return self

    def __exit__(self, *exc: object) -> None:
        stamp("ended", total=self.total, breaks=self.breaks)


# --- items that take their time


def spin(seconds: Any) -> int:
    """Keep a core busy for so much of this thread's CPU time."""
    if seconds.__class__ is Warm:
        seconds.touch()
        return 0
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return 1


def nap(seconds: Any) -> int:
    """Wait for something else than a core."""
    if seconds.__class__ is Warm:
        seconds.touch()
        return 0
    time.sleep(seconds)
    return 1


async def anap(seconds: Any) -> int:
    """The same on an event loop."""
    import asyncio  # here: a worker that has no event loop does not import it

    if seconds.__class__ is Warm:
        seconds.touch()
        return 0
    await asyncio.sleep(seconds)
    return 1


def even(count: int, seconds: float, workers: int = 0) -> Iterator[float | Warm]:
    """Items of one cost."""
    yield from warming(workers)
    stamp("began")
    yield from itertools.repeat(seconds, count)


#: One item in a hundred takes two thousand times as long.
QUICK_ITEM, LONG_ITEM = 10e-6, 20e-3


def skewed_costs(count: int) -> list[float]:
    """The costs of skewed items, in seconds; the same each time, one in a hundred to the item."""
    import random

    costs = [LONG_ITEM] * (count // 100) + [QUICK_ITEM] * (count - count // 100)
    random.Random(4).shuffle(costs)
    return costs


def skewed(count: int, workers: int = 0) -> Iterator[float | Warm]:
    """Items of which a few take very long."""
    yield from warming(workers)
    stamp("began")
    yield from skewed_costs(count)


# --- a slow source


def ticks(count: int, seconds: float, workers: int = 0) -> Iterator[int | Warm]:
    """An item now and then: the moment at which it was made, in nanoseconds."""
    yield from warming(workers)
    time.sleep(0.05)
    stamp("began")
    for _ in range(count):
        time.sleep(seconds)
        yield time.monotonic_ns()


def pass_on(item: Any) -> Any:
    """No work at all."""
    if item.__class__ is Warm:
        item.touch()
        return 0
    return item


class Delays:
    """The sink of ticks, as a task: how old each one is when it arrives."""

    def __init__(self) -> None:
        self.delays: list[int] = []

    def __call__(self, item: int) -> None:
        if item:
            self.delays.append(time.monotonic_ns() - item)

    def __enter__(self) -> Delays:
        return self

    def __exit__(self, *exc: object) -> None:
        ordered = sorted(self.delays) or [0]
        p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        stamp("ended", items=len(self.delays), p50=p50 / 1e6, p99=p99 / 1e6, worst=ordered[-1] / 1e6)


def time_delays(results: Iterable[int]) -> None:
    """The sink of ticks, as a loop."""
    with Delays() as sink:
        for item in results:
            sink(item)


# --- beside the items


def compute() -> None:
    """Hold the GIL as much as one can, until the sink of this run has ended."""
    limit = time.monotonic() + 100
    while not has_stamped("ended") and time.monotonic() < limit:
        for _ in range(200_000):
            pass


# --- what waits in the ledger of a durable run


def texts(count: int) -> Iterator[str]:
    """Items of some size, and a moment when all of them have left."""
    for index in range(count):
        yield f"{index:0200d}"
    stamp("all")


class FirstItem:
    """A task that says when its first item has come, and takes its time with it."""

    def __call__(self, item: str) -> None:
        stamp("first")
        time.sleep(60)
