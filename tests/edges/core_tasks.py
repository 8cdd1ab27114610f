"""Task functions for the tests of the core."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runner.errors import Retry
from runner.tasks import Context  # noqa: TC001  read at run time

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How far sources have come, by name.
MADE: dict[str, int] = {}
SEEN: list[int] = []


def counted(count: int, name: str) -> Iterator[int]:
    for number in range(count):
        MADE[name] = number
        yield number


def flaky(item: int, ctx: Context) -> int:
    """Every twentieth item fails at first."""
    threading.Event().wait(0.0005)
    if item % 20 == 7 and ctx.attempt == 1:
        raise OSError("first try")
    return item


def first_much_later(item: int, ctx: Context) -> int:
    if item == 0 and ctx.attempt == 1:
        raise Retry("later", after=0.5)
    return item


def same(item: Any) -> Any:
    return item


def dies_once(item: int, log: str) -> None:
    """Writes down what it has done; dies once, in the middle of what it was given."""
    threading.Event().wait(0.0005)
    if item == 500 and not Path(f"{log}.once").exists():
        Path(f"{log}.once").touch()
        os._exit(1)
    with Path(log).open("a") as file:
        file.write(f"{item}\n")


def odd_items() -> Iterator[Any]:
    for number in range(40):
        yield [(), (number,), (number, "x"), (number, b"x" * 900), {"a": "y" * 900}, "z" * 900, None, [1, 2]][
            number % 8
        ]


def how_far(item: int, name: str) -> None:
    """Notes how far a source has come when the first item arrives."""
    if item == 0:
        SEEN.append(MADE[name])


class OpensLate:
    """Cannot be set up the first time; notes each tear-down."""

    tried = threading.Event()
    closed: ClassVar[list[int]] = []

    def __init__(self) -> None:
        if not self.tried.is_set():
            self.tried.set()
            raise OSError("busy")

    def __enter__(self) -> OpensLate:
        return self

    def __call__(self, item: int) -> None:
        """Take an item."""

    def __exit__(self, *_: object) -> None:
        self.closed.append(1)


def nothing_then() -> Iterator[int]:
    """Give no item, and end when the sink's first set-up has failed."""
    OpensLate.tried.wait(10)
    yield from ()
