"""The tasks that are to be looked at, the farthest from the sources first."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class DirtyTasks:
    """Names, each at most once; what has the highest depth comes out first.

    >>> agenda = DirtyTasks({"bake": 0, "eat": 1})
    >>> agenda.add_tasks(["bake", "eat", "bake"])
    >>> agenda.pop_farthest(), agenda.pop_farthest(), agenda.pop_farthest()
    ('eat', 'bake', None)
    """

    def __init__(self, depths: Mapping[str, int]) -> None:
        self._names = sorted(depths, key=depths.__getitem__, reverse=True)
        self._ranks = {name: rank for rank, name in enumerate(self._names)}
        self._due: set[str] = set()
        self._heap: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._due)

    def add_tasks(self, names: Iterable[str]) -> None:
        """Look at these, too."""
        for name in names:
            if name not in self._due:
                self._due.add(name)
                heappush(self._heap, self._ranks[name])

    def pop_farthest(self) -> str | None:
        """The next one; None when there is none."""
        if not self._heap:
            return None
        name = self._names[heappop(self._heap)]
        self._due.discard(name)
        return name
