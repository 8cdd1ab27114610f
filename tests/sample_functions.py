"""Task functions that tests of fleets run in real workers; importable there by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

go_on = threading.Event()


def count_to(count: int) -> Iterator[int]:
    yield from range(count)


def hang(item: Any) -> Any:
    go_on.wait(60)
    return item
