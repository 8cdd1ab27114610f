"""Which worker of a run on other machines has its place where, and which wait for one.

A place is what a worker needs: one CPU, or what `resources` of its task says. A machine lends what its agent has told.
"""

from __future__ import annotations

import time
from collections import Counter
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from msgspec.structs import replace

from runner.engines.launcher import WorkerBundle
from runner.model import Resources
from runner.text import count_with_noun

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from runner.engines.node_state import Node, RemoteWorker
    from runner.worker.spec import WorkerSpec

    #: Minus the parts of CPUs that a machine has free, its number, and the machine.
    _Room = tuple[int, int, Node]

_ONE_CPU = Resources()
#: Seconds for which a machine that has refused a start gets no other, times two for each time, up to a minute.
_FIRST_AVOIDED, _MAX_AVOIDED = 1.0, 60.0
#: Of so many machines that are as empty one is chosen.
_MOST_LOOKS = 8


class WorkerPlaces:
    """The nodes of a run, and the workers that have no place yet. `resources` by task, where it says some.

    Tasks are given places in turn: with all of them taken by one task, those behind it would have one worker each.
    """

    def __init__(self, resources: Mapping[str, Resources]) -> None:
        self._resources = resources
        self.nodes: dict[str, Node] = {}
        self.waiting: dict[int, RemoteWorker] = {}
        self._waiting_by_task: dict[str, dict[int, RemoteWorker]] = {}
        self._placed_by_task: Counter[str] = Counter()

    def add_waiting(self, worker: RemoteWorker) -> None:
        """Let a worker wait for a place."""
        self.waiting[worker.spec.slot] = worker
        self._waiting_by_task.setdefault(worker.spec.task, {})[worker.spec.slot] = worker

    def withdraw(self, slot: int) -> RemoteWorker | None:
        """Return the worker of this slot if it waits, and let it wait no more."""
        worker = self.waiting.pop(slot, None)
        if worker is not None:
            del self._waiting_by_task[worker.spec.task][slot]
        return worker

    def wanted_by(self, task: str) -> Resources:
        """Return what a worker of a task needs."""
        return self._resources.get(task, _ONE_CPU)

    def emptiest_node(self) -> Node | None:
        """Return the machine with the most free CPUs, even if that is none; None if there is no machine."""
        return max(self._usable_nodes(), key=lambda node: node.shares.free_cpus, default=None)

    def _usable_nodes(self) -> list[Node]:
        """Return the machines that stay; those that have refused a start a moment ago only if there are no others."""
        staying = [node for node in self.nodes.values() if not node.is_leaving]
        now = time.monotonic()
        return [node for node in staying if node.avoided_until <= now] or staying

    def give_places(self) -> list[RemoteWorker]:
        """Give those that wait a place as far as there are any; the first worker of a task wherever a machine is.

        Tasks wait for each other's items: with all places taken by one of them, a run would stand still. A turn costs
        as much as the machines and the workers that get a place, not as those that go on waiting.
        """
        placed: list[RemoteWorker] = []
        if not self.waiting:
            return placed
        nodes = self._usable_nodes()
        by_room = [(-node.shares.free_cpus, number, node) for number, node in enumerate(nodes)]
        heapify(by_room)
        asking = {task: workers for task, workers in self._waiting_by_task.items() if workers}
        while asking and nodes:
            for task, workers in list(asking.items()):
                worker = next(iter(workers.values()))
                if self._place(worker, by_room):
                    placed.append(worker)
                else:
                    workers = {}  # noqa: PLW2901  no other worker of this task fits either
                if not workers:
                    del asking[task]
        return placed

    def _place(self, worker: RemoteWorker, by_room: list[_Room]) -> bool:
        """Give a worker its place; `by_room` is a heap of machines, the emptiest first."""
        slot, task = worker.spec.slot, worker.spec.task
        wanted, is_first = self.wanted_by(task), not self._placed_by_task[task]
        emptiest = _pop_emptiest(task, by_room)
        found = emptiest if emptiest[2].shares.take(slot, wanted) else None
        if found is None:
            heappush(by_room, emptiest)
            # Where CPUs are all that is wanted, no other machine has more of them.
            others = sorted(by_room) if wanted.gpus or wanted.memory else []
            found = next((each for each in others if each[2].shares.take(slot, wanted)), None)
            if found is None and is_first:
                crowded = sorted(by_room)
                found = next((each for each in crowded if each[2].shares.take(slot, wanted, crowded=True)), None)
            if found is None:
                return False
            by_room.remove(found)
            heapify(by_room)
        _, number, node = found
        heappush(by_room, (-node.shares.free_cpus, number, node))
        node.workers_by_task[task] += 1
        self.withdraw(slot)
        self._placed_by_task[task] += 1
        worker.node = node
        return True

    def avoid_node(self, node: Node) -> float:
        """Start nothing on a machine that has refused a start, for a while; return for how many seconds."""
        node.refusals += 1
        pause = min(_MAX_AVOIDED, _FIRST_AVOIDED * 2.0 ** (node.refusals - 1))
        node.avoided_until = time.monotonic() + pause
        return pause

    def capacity(self, task: str) -> int:
        """Return how many workers of a task would have room, were all machines empty."""
        wanted = self.wanted_by(task)
        return sum(node.shares.capacity(wanted) for node in self.nodes.values() if not node.is_leaving)

    def give_back(self, worker: RemoteWorker, node: Node | None) -> None:
        """Take the place of a worker back; without a `node` its machine is gone as well."""
        if node is not None:
            node.slots.discard(worker.spec.slot)
            node.workers_by_task[worker.spec.task] -= 1
            node.shares.release(worker.spec.slot)
        if not worker.spec.previews_suspects:
            self._placed_by_task[worker.spec.task] -= 1

    def placed_spec(self, worker: RemoteWorker) -> WorkerSpec:
        """Return the description of a worker for its node: with the GPUs and the threads that it has there."""
        wanted = self._resources.get(worker.spec.task)
        spec = replace(worker.spec, node=worker.node.name if worker.node is not None else "")
        if wanted is None or worker.node is None or worker.spec.previews_suspects:
            return spec
        return replace(spec, env=worker.node.shares.worker_env(worker.spec.slot, wanted, worker.spec.env))

    def wanted_bundles(self, workers: Iterable[RemoteWorker], launched: Collection[str]) -> list[WorkerBundle]:
        """Return what a launcher is to have places for: all that wait, and those on nodes that it has started."""
        counts: Counter[Resources] = Counter()
        for worker in workers:
            if not worker.spec.previews_suspects and (worker.node is None or worker.node.name in launched):
                counts[self._resources.get(worker.spec.task, _ONE_CPU)] += 1
        return [WorkerBundle(count, each.cpus, each.gpus, each.memory) for each, count in counts.items()]

    def describe_waiting(self, worker_count: int, without_nodes: str) -> str:
        """Return what is missing, for people."""
        who = f"{len(self.waiting):,} of {count_with_noun(worker_count, 'worker')} wait for a place"
        if not self.nodes:
            return f"{who}: no node has joined{'. ' * bool(without_nodes)}{without_nodes}"
        for worker in self.waiting.values():
            wanted = self._resources.get(worker.spec.task, _ONE_CPU)
            if not any(node.shares.could_fit(wanted) for node in self.nodes.values()):
                return f"{who}: no node has what one of task `{worker.spec.task}` needs ({describe_resources(wanted)})"
        places = int(sum(node.hello.places for node in self.nodes.values()))
        return f"{who}: all {count_with_noun(places, 'place')} of {count_with_noun(len(self.nodes), 'node')} are taken"


def describe_resources(wanted: Resources) -> str:
    """Return what a worker needs, for people.

    >>> describe_resources(Resources(2, 0.25, 2_000_000_000)), describe_resources(Resources())
    ('2 CPUs, 0.25 GPUs, 2GB of memory', '1 CPU')
    """
    parts = [f"{wanted.cpus:g} CPU{'' if wanted.cpus == 1 else 's'}"]
    if wanted.gpus:
        parts.append(f"{wanted.gpus:g} GPU{'' if wanted.gpus == 1 else 's'}")
    if wanted.memory:
        parts.append(f"{wanted.memory / 1e9:g}GB of memory")
    return ", ".join(parts)


def _pop_emptiest(task: str, by_room: list[_Room]) -> _Room:
    """Take the emptiest machine off a heap: of those that are as empty, the one with the fewest workers of a task.

    So the tasks of a run stand on all machines together, and an item finds its reader where it is.
    """
    passed = [heappop(by_room)]
    while by_room and by_room[0][0] == passed[0][0] and len(passed) < _MOST_LOOKS:
        if not passed[-1][2].workers_by_task[task]:
            break
        passed.append(heappop(by_room))
    best = min(passed, key=lambda each: each[2].workers_by_task[task])
    for each in passed:
        if each is not best:
            heappush(by_room, each)
    return best
