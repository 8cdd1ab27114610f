"""The end of a test's topology: a thread, so that what arrives is seen by the test itself."""

from __future__ import annotations

from typing import Any

from faults.harness import task

_LISTS: dict[int, list[Any]] = {}


def collect(item: Any, key: int) -> None:
    _LISTS[key].append(item)


def collector(collected: list[Any], queues: str, name: str = "collect") -> Any:
    """A task that appends what it reads to a list."""
    _LISTS[id(collected)] = collected
    return task(name, collect, queues, mode="thread", args=(id(collected),))
