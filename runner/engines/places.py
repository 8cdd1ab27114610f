"""Which worker of a run on other machines has its place where, and which wait for one.

A place is what a worker needs: one CPU, or what `resources` of its task says. A machine lends what its agent has told.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from runner.engines.launcher import WorkerBundle
from runner.model import Resources
from runner.structs import dataclass
from runner.text import count_with_noun
from runner.transport.agent_messages import ShownPosition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from runner.engines.nodes import Node
    from runner.worker.spec import WorkerSpec

_ONE_CPU = Resources()


@dataclass(slots=True, eq=False)
class RemoteWorker:
    """A worker that is to be: without a `node` it waits for a place, or its machine is gone."""

    spec: WorkerSpec
    generation: int
    node: Node | None = None
    shown: ShownPosition = ShownPosition(0, 0)
    stack: str = ""
    weight: int = 0


class WorkerPlaces:
    """The nodes of a run, and the workers that have no place yet, in turn. `resources` by task, where it says some."""

    def __init__(self, resources: Mapping[str, Resources]) -> None:
        self._resources = resources
        self.nodes: dict[str, Node] = {}
        self.waiting: dict[int, RemoteWorker] = {}
        self._placed_by_task: Counter[str] = Counter()

    def emptiest_node(self) -> Node | None:
        """Return the machine with the most free CPUs, even if that is none; None if there is no machine."""
        return max(self._staying_nodes(), key=lambda node: node.shares.free_cpus, default=None)

    def _staying_nodes(self) -> list[Node]:
        return [node for node in self.nodes.values() if not node.is_leaving]

    def give_places(self) -> list[RemoteWorker]:
        """Give those that wait a place as far as there are any; the first worker of a task wherever a machine is.

        Tasks wait for each other's items: with all places taken by one of them, a run would stand still.
        """
        placed: list[RemoteWorker] = []
        nodes = self._staying_nodes()
        without_room: set[Resources] = set()
        for slot, worker in list(self.waiting.items()) if nodes else ():
            task = worker.spec.task
            wanted, is_first = self._resources.get(task, _ONE_CPU), not self._placed_by_task[task]
            if wanted in without_room and not is_first:
                continue
            by_room = sorted(nodes, key=lambda node: -node.shares.free_cpus)
            node = next((node for node in by_room if node.shares.take(slot, wanted)), None)
            if node is None:
                without_room.add(wanted)
                if is_first:
                    node = next((node for node in by_room if node.shares.take(slot, wanted, crowded=True)), None)
            if node is not None:
                del self.waiting[slot]
                self._placed_by_task[task] += 1
                worker.node = node
                placed.append(worker)
        return placed

    def give_back(self, worker: RemoteWorker, node: Node | None) -> None:
        """Take the place of a worker back; without a `node` its machine is gone as well."""
        if node is not None:
            node.slots.discard(worker.spec.slot)
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
