"""The functions under measurement: the same ones for every contender. Light, because workers import it."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.kinds import STAMPS, stamp

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

    def touch(self) -> None:
        """Say which worker this is."""
        stamp("warm", worker=threading.get_native_id())
        time.sleep(0.004)  # longer than the source's pause: the next one goes to another worker

    def __mul__(self, other: object) -> int:
        self.touch()
        return 0

    def __add__(self, other: object) -> int:
        self.touch()
        return 0


def warming(workers: int) -> Iterator[Warm]:
    """Items to begin with, until `workers` workers have executed one: what is measured then is no start-up."""
    limit = time.monotonic() + 20
    while len(_warmed()) < workers and time.monotonic() < limit:
        yield Warm()
        time.sleep(0.001)


def _warmed() -> set[int]:
    try:
        with open(os.environ[STAMPS]) as file:  # noqa: PTH123
            return {json.loads(line).get("worker") for line in file if line.endswith("\n")} - {None}
    except FileNotFoundError:
        return set()


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


def consume(results: Iterable[int]) -> None:
    """The sink of small items, as a loop."""
    total = 0
    for item in results:
        total += item
    stamp("ended", total=total)


def spin(seconds: float) -> None:
    """Keep a core busy for so much of this thread's CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
