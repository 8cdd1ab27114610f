"""The functions under measurement: the same ones for every contender. Light, because workers import it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from bench.kinds import stamp

#: One item in so many goes ahead, unmeasured, while the workers start.
WARM = 10


def numbers(count: int) -> Iterator[int]:
    """The source of small items: a tenth of them to warm up, then the clock starts."""
    yield from itertools.repeat(0, count // WARM)
    stamp("began")
    yield from range(count)


def square(item: int) -> int:
    """The work on a small item."""
    return item * item + 1


def add_one(item: int) -> int:
    """The work of one stage of a chain."""
    return item + 1


def expected_squares(count: int) -> int:
    """What the sink's total must be."""
    return count // WARM + (count - 1) * count * (2 * count - 1) // 6 + count


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


def lists(items: Iterable[Any], size: int = 1000) -> Iterator[list[Any]]:
    """Lists of `size`, as everybody makes them by hand who has measured."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
