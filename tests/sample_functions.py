"""Task functions that tests of fleets run in real workers; importable there by name."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

go_on = threading.Event()


def count_to(count: int) -> Iterator[int]:
    yield from range(count)


def shout(length: int) -> int:
    print("x" * length)
    return length


def hang(item: Any) -> Any:
    go_on.wait(60)
    return item
