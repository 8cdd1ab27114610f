"""The tasks that are to be looked at, the farthest from the sources first."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.topology import Topology


class DirtyTasks:
    """Names of tasks, each at most once; the task with the highest depth comes out first.

    >>> from runner.topology import TaskNode, Topology
    >>> graph = Topology([TaskNode("bake", outputs=("bread",)), TaskNode("eat", inputs=("bread",))])
    >>> dirty = DirtyTasks(graph)
    >>> dirty.add_tasks(["bake", "bake"]); dirty.add_readers("bread")
    >>> dirty.pop_farthest(), dirty.pop_farthest(), dirty.pop_farthest()
    ('eat', 'bake', None)
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        depths = topology.task_depths()
        self._names = sorted(depths, key=depths.__getitem__, reverse=True)
        self._ranks = {name: rank for rank, name in enumerate(self._names)}
        self._due: set[str] = set()
        self._heap: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._due)

    def add_tasks(self, names: Iterable[str]) -> None:
        """Look at these tasks, too."""
        for name in names:
            if name not in self._due:
                self._due.add(name)
                heappush(self._heap, self._ranks[name])

    def add_readers(self, queue: str) -> None:
        """Look at the readers of a queue: something came into it."""
        self.add_tasks(self._topology.readers[queue])

    def add_input_writers(self, task: str) -> None:
        """Look at the tasks that write the task's inputs: something left them."""
        for queue in self._topology.nodes[task].inputs:
            self.add_tasks(self._topology.writers[queue])

    def add_input_readers(self, task: str) -> None:
        """Look at the tasks that share the task's inputs: something went back into them."""
        for queue in self._topology.nodes[task].inputs:
            self.add_tasks(self._topology.readers[queue])

    def pop_farthest(self) -> str | None:
        """Take out the next task; None when there is none."""
        if not self._heap:
            return None
        name = self._names[heappop(self._heap)]
        self._due.discard(name)
        return name
