"""Priorities of items for queues with `order = "priority"`: read where items are made, as all others see bytes only."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any


def read_priority(item: Any) -> float:
    """Return the priority of an item: its attribute, its key, or the first of a pair. TypeError: it has none.

    >>> read_priority({"priority": 2}), read_priority((-1.5, "text"))
    (2.0, -1.5)
    >>> read_priority("text")
    Traceback (most recent call last):
        ...
    TypeError: a str has no `priority`: ...
    """
    if isinstance(item, Mapping):
        found = item.get("priority")
    elif isinstance(item, tuple | list) and len(item) == 2 and not hasattr(item, "priority"):
        found = item[0]
    else:
        found = getattr(item, "priority", None)
    if isinstance(found, int | float) and not isnan(found):
        return float(found)
    what = f"a {type(item).__name__} has no `priority`" if found is None else f"the priority {found!r:.40} is no number"
    raise TypeError(
        f'{what}: a queue with `order = "priority"` takes items with an attribute or a key `priority`, '
        "or pairs (priority, item), where it is a number"
    )


def group_by_mark(items: list[Any], marks: list[float]) -> list[tuple[float, list[Any]]]:
    """Return the items of each mark, in their order; the marks in the order in which they come first.

    >>> group_by_mark(["a", "b", "c"], [5, 3, 5, 7])
    [(5, ['a', 'c']), (3, ['b'])]
    """
    found: dict[float, list[Any]] = {}
    for item, mark in zip(items, marks, strict=False):  # another thread may append meanwhile
        found.setdefault(mark, []).append(item)
    return list(found.items())
