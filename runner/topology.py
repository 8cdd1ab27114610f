"""The graph of tasks and queues, and what follows from it: what may start, what has ended, what is in vain.

Pure: tasks and queues are names, and the caller says what happened (`started`, `over`).

A queue closes when all its writers are over, or can put nothing any more (`spent`). A task's inputs are *exhausted*
when they are closed and empty and nothing is in flight; tasks on a cycle are exhausted together, when every queue that
leads into the cycle is closed and nothing is queued or in flight anywhere in it. That is exact because outputs and acks
arrive in one message.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runner.model import AfterState


class Stage(Enum):
    """The stage of a task's life."""

    WAITING = "waiting"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


#: A tuple, as wherever stages and phases are compared at every turn: a set would hash them, in Python, each time.
FINISHED_STAGES = (Stage.OK, Stage.FAILED, Stage.SKIPPED)


class TaskNode(Struct, frozen=True):
    """A task in the graph; `outputs` includes its queue of dead letters."""

    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: Mapping[str, AfterState] = field(default_factory=dict)


class Topology:
    """The graph and the stage of every task.

    >>> graph = Topology([TaskNode("bake", outputs=("bread",)), TaskNode("eat", inputs=("bread",))])
    >>> graph.startable_tasks()
    ['bake', 'eat']
    >>> for name in graph.startable_tasks(): graph.mark_started(name)
    >>> graph.exhausted_tasks(busy=lambda task: False)
    []
    >>> graph.finish("bake", Stage.OK)
    >>> graph.exhausted_tasks(busy=lambda task: False)
    ['eat']
    """

    def __init__(self, nodes: Iterable[TaskNode]) -> None:
        self.nodes: dict[str, TaskNode] = {node.name: node for node in nodes}
        self.stages: dict[str, Stage] = dict.fromkeys(self.nodes, Stage.WAITING)
        self._open = len(self.nodes)
        self._waiting = dict.fromkeys(self.nodes)
        #: Tasks on one cycle, to all of whom nothing can come from elsewhere; tasks whose readers may all be over.
        self._closed: dict[tuple[str, ...], None] = {}
        self._unread: dict[str, None] = {}
        #: Tasks of which at least one worker executes or can execute.
        self.ready_tasks: set[str] = set()
        self.ended_tasks: set[str] = set()
        self._writers_done: set[str] = set()
        self.writers: dict[str, list[str]] = {}
        self.readers: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for queue in dict.fromkeys(node.outputs):
                self.writers.setdefault(queue, []).append(node.name)
                self.readers.setdefault(queue, [])
            for queue in node.inputs:
                self.readers.setdefault(queue, []).append(node.name)
                self.writers.setdefault(queue, [])
        onward = {
            name: [reader for queue in node.outputs for reader in self.readers[queue]]
            for name, node in self.nodes.items()
        }
        self.cycles: list[tuple[str, ...]] = strongly_connected(onward)
        self._component = {name: component for component in self.cycles for name in component}

    def cycle_of(self, name: str) -> tuple[str, ...]:
        """Return the tasks that share a cycle with this one, itself included."""
        return self._component[name]

    def task_depths(self) -> dict[str, int]:
        """Return how far each task is from the sources; tasks on one cycle share a number."""
        depths: dict[str, int] = {}
        for component in reversed(self.cycles):  # sources first
            feeders = {
                writer
                for name in component
                for queue in self.nodes[name].inputs
                for writer in self.writers[queue]
                if writer not in component
            }
            depth = 1 + max((depths[writer] for writer in feeders), default=-1)
            depths.update(dict.fromkeys(component, depth))
        return depths

    def leading_to(self, names: Iterable[str]) -> set[str]:
        """Return these tasks, and all whose items could come to one of them, directly or through others.

        >>> bake, eat = TaskNode("bake", outputs=("bread",)), TaskNode("eat", inputs=("bread",))
        >>> graph = Topology([bake, eat, TaskNode("dance")])
        >>> sorted(graph.leading_to(["eat"]))
        ['bake', 'eat']
        """
        look = list(names)
        found = set(look)
        while look:
            for queue in self.nodes[look.pop()].inputs:
                fresh = [writer for writer in self.writers[queue] if writer not in found]
                found.update(fresh)
                look += fresh
        return found

    def mark_started(self, name: str) -> None:
        """Note that the task's workers are being started."""
        self.stages[name] = Stage.RUNNING
        self._waiting.pop(name, None)
        self._unread[name] = None
        self._look_at(name)

    def finish(self, name: str, stage: Stage) -> None:
        """Note that the task has ended: OK, FAILED or SKIPPED."""
        if self.stages[name] not in FINISHED_STAGES:
            self._open -= 1
        self._waiting.pop(name, None)
        self.stages[name] = stage
        self.ended_tasks.add(name)
        self._look_at(name)
        self._look_downstream(name)
        for queue in self.nodes[name].inputs:
            self._unread.update(dict.fromkeys(self.writers[queue]))

    def writers_done(self, name: str) -> None:
        """Note that the task will put nothing any more, although its workers have not ended yet.

        >>> graph = Topology([TaskNode("bake", outputs=("bread",)), TaskNode("eat", inputs=("bread",))])
        >>> for name in graph.startable_tasks(): graph.mark_started(name)
        >>> graph.writers_done("bake"); graph.exhausted_tasks(busy=lambda task: False)
        ['eat']
        """
        self._writers_done.add(name)
        self._look_downstream(name)

    def _look_downstream(self, name: str) -> None:
        for queue in self.nodes[name].outputs:
            for reader in self.readers[queue]:
                self._look_at(reader)

    def _look_at(self, name: str) -> None:
        """Look again whether the inputs of a task and its cycle are closed."""
        component = self._component[name]
        if all(self.is_closed(queue, component) for member in component for queue in self.nodes[member].inputs):
            self._closed[component] = None

    def is_finished(self, name: str) -> bool:
        """Return True if the task has ended, in whatever way."""
        return self.stages[name] in FINISHED_STAGES

    def all_finished(self) -> bool:
        """Return True if the run has ended."""
        return self._open == 0

    def startable_tasks(self) -> list[str]:
        """Return the waiting tasks whose `after` holds."""
        return [
            name
            for name in self._waiting
            if all(self._holds(other, wanted) for other, wanted in self.nodes[name].after.items())
        ]

    def _holds(self, name: str, wanted: AfterState) -> bool:
        stage = self.stages[name]
        if wanted == "ok":
            return stage is Stage.OK
        if wanted == "ended":
            return stage in FINISHED_STAGES
        return name in self.ready_tasks or stage in {Stage.OK, Stage.FAILED}

    def unstartable_tasks(self) -> list[str]:
        """Return the waiting tasks whose `after` can never hold any more."""
        return [
            name
            for name in self._waiting
            if any(
                self.is_finished(other) and not self._holds(other, wanted)
                for other, wanted in self.nodes[name].after.items()
            )
        ]

    def is_closed(self, queue: str, inside: Iterable[str] = ()) -> bool:
        """Return True if nothing will be put any more, apart from what the tasks `inside` may put."""
        return all(
            self.is_finished(writer) or writer in inside or writer in self._writers_done
            for writer in self.writers[queue]
        )

    def may_end(self, name: str) -> bool:
        """Return True if nothing can come to a task and its cycle from elsewhere: it may end with its last item."""
        return self._component[name] in self._closed

    def exhausted_tasks(self, busy: Callable[[str], bool]) -> list[str]:
        """Return the running tasks whose inputs have ended; `busy(task)`: it has items queued or in flight."""
        ended: list[str] = []
        for component in list(self._closed):
            running = [name for name in component if self.stages[name] is Stage.RUNNING and self.nodes[name].inputs]
            if not running:
                del self._closed[component]
            elif not any(busy(name) for name in component) and all(
                self.nodes[name].inputs or self.is_finished(name) for name in component
            ):
                ended.extend(running)
        return ended

    def without_readers(self) -> list[str]:
        """Return the running tasks that have outputs, all readers of which are over: no item will ever be taken."""
        self._unread = {
            name: None
            for name in self._unread
            if self.stages[name] is Stage.RUNNING
            and (outputs := self.nodes[name].outputs)
            and all(self.is_finished(reader) for queue in outputs for reader in self.readers[queue])
        }
        return list(self._unread)


def strongly_connected(edges: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Return Tarjan's strongly connected components, each after all components that it leads to; iterative.

    >>> strongly_connected({"a": ["b"], "b": ["c"], "c": ["b"]})
    [('c', 'b'), ('a',)]
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[tuple[str, ...]] = []
    for root in edges:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        path = [(root, iter(edges[root]))]
        while path:
            name, rest = path[-1]
            for nxt in rest:
                if nxt not in index:
                    index[nxt] = low[nxt] = len(index)
                    stack.append(nxt)
                    on_stack.add(nxt)
                    path.append((nxt, iter(edges[nxt])))
                    break
                if nxt in on_stack:
                    low[name] = min(low[name], index[nxt])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == index[name]:
                    part = [stack.pop()]
                    while part[-1] != name:
                        part.append(stack.pop())
                    on_stack.difference_update(part)
                    found.append(tuple(part))
    return found


def connected_groups(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the names by what connects them, each group in their order.

    >>> connected_groups("abcd", [("a", "c"), ("d", "c")])
    [['a', 'c', 'd'], ['b']]
    """
    group = {name: name for name in names}
    for one, other in pairs:
        mine, theirs = group[one], group[other]
        if mine != theirs:
            group = {name: mine if head == theirs else head for name, head in group.items()}
    return [[name for name in group if group[name] == head] for head in dict.fromkeys(group.values())]
