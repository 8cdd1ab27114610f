"""Machines that join, leave and die at random, on a virtual clock: the real supervisor, and the real choice of places.

Only what is on the machines is made up: a worker takes an item's time and answers. What each kind of event costs the
supervisor's thread is measured, and every item that a sink has is kept.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fake_engine import FakeClock, FakeReactor, check_end, task
from fake_engine import plan as plan_of

from runner.cluster.placement import MachineShares
from runner.engines.engine_events import ExitStatus, MessageReceived, PlacesChanged, WorkerExited, WorkerLeaving
from runner.engines.node_state import RemoteWorker
from runner.engines.places import WorkerPlaces
from runner.model import QueueConfig, Restarts
from runner.supervisor.loop import Supervisor
from runner.transport.messages import Ack, Credit, Finished, Grant, Output, Produced, Ready, Reply, Stop
from runner.transport.progress_page import Position

if TYPE_CHECKING:
    from runner.engines.node_state import Node

#: An item that has been executed for so long is blamed when its machine is lost.
STANDS = 1.0
NOWHERE = Position(0, 0)


class MeasuredReactor(FakeReactor):
    """Adds up what the supervisor's thread takes from one event to the next, by the kind of event."""

    limit = 1 << 60

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self._kind, self._since = "", 0.0
        #: Called before each wait, as a reactor has them.
        self.before_wait: list[Any] = []

    def wait(self, timeout: float | None) -> list[Any]:
        for call in self.before_wait:
            call()
        if self._kind:
            self.seconds[self._kind] += time.perf_counter() - self._since
            self.counts[self._kind] += 1
        found = super().wait(timeout)
        self._kind = _kind_of(found[0]) if found else ""
        self._since = time.perf_counter()
        return found


def _kind_of(event: Any) -> str:
    if isinstance(event, MessageReceived):
        return type(event.message).__name__
    return "lost" if isinstance(event, WorkerExited) and event.lost else type(event).__name__


@dataclass
class VirtualWorker:
    """A worker on a machine, or here: grants that wait in it, and what it executes."""

    remote: RemoteWorker
    is_here: bool = False
    is_alive: bool = True
    is_told_to_stop: bool = False
    is_leaving: bool = False
    grants: list[Grant] = field(default_factory=list)
    grant: Grant | None = None
    began: float = 0.0
    made: int = 0


@dataclass(frozen=True)
class Weather:
    """What befalls the machines. Seconds: `life` and `absence` are means; of those that go, some leave with notice."""

    nodes: int = 1000
    places: int = 16
    items: int = 100_000
    life: float = 600.0
    absence: float = 60.0
    notice: float = 0.3
    item_seconds: float = 0.5
    #: Of the items so many take three seconds, so that they are blamed.
    long: float = 0.02


class VirtualNodes:
    """An engine whose workers in processes have places on machines, and whose threads are here."""

    def __init__(self, reactor: MeasuredReactor, weather: Weather, seed: int) -> None:
        self.reactor, self.weather, self.draw = reactor, weather, random.Random(seed)
        self.places = WorkerPlaces({})
        self.workers: dict[int, VirtualWorker] = {}
        self.arrived: list[int] = []
        self.happened: Counter[str] = Counter()
        #: How often each item stood when its machine was lost; items under way, to see that none is at two places.
        self.blamed: Counter[int] = Counter()
        self.under_way: Counter[int] = Counter()
        self.at_once = 0
        self.is_over = self._has_new_starts = False
        reactor.before_wait.append(self._start_new)
        for number in range(weather.nodes):
            reactor.at(self.draw.uniform(0, 30.0), lambda number=number: self._join(number))

    # -- machines ------------------------------------------------------------------------------

    def _join(self, number: int) -> Any:
        if self.is_over:
            return None
        hello = SimpleNamespace(places=self.weather.places)
        node: Any = SimpleNamespace(
            name=f"n{number}", hello=hello, shares=MachineShares(self.weather.places), slots=set(),
            workers_by_task=Counter(), is_leaving=False, refusals=0, avoided_until=0.0,
        )  # fmt: skip
        self.places.nodes[node.name] = node
        self.happened["joined"] += 1
        self.reactor.at(self.draw.expovariate(1 / self.weather.life), lambda: self._go(node, number))
        self._give_places()
        return PlacesChanged()

    def _go(self, node: Any, number: int) -> None:
        if self.draw.random() < self.weather.notice:
            node.is_leaving = True
            self.happened["left"] += 1
            for slot in list(node.slots):
                worker = self.workers[slot]
                worker.is_leaving = True
                self.reactor.at(0, lambda worker=worker: self._event(worker, WorkerLeaving))
            self.reactor.at(20.0, lambda: self._lose(node, number))
        else:
            self._lose(node, number)

    def _event(self, worker: VirtualWorker, kind: Any) -> Any:
        return kind(worker.remote.spec.slot, worker.remote.generation) if worker.is_alive else None

    def _lose(self, node: Node, number: int) -> None:
        if self.places.nodes.pop(node.name, None) is None:
            return
        self.happened["lost"] += 1
        for slot in list(node.slots):
            worker = self.workers[slot]
            self.happened["lost workers"] += 1
            worker.is_alive = False
            position = self._position(worker)
            if worker.grant is not None:
                self._end_executing(worker.grant, self._items(worker.grant))
            self.places.give_back(worker.remote, None)
            gone = WorkerExited(slot, worker.remote.generation, ExitStatus(text="lost"), position, lost=True)
            self.reactor.at(0.1, lambda gone=gone: gone)
        self.reactor.at(self.draw.expovariate(1 / self.weather.absence), lambda: self._join(number))

    def _position(self, worker: VirtualWorker) -> Position:
        """Return the position of the item that has stood for a second, and note the blame."""
        if worker.grant is None:
            return NOWHERE
        at, now = worker.began, self.reactor.clock.now()
        for index, item in enumerate(self._items(worker.grant)):
            end = at + self._item_seconds(item)
            if end > now:
                if now - at < STANDS:
                    return NOWHERE
                self.blamed[item] += 1
                return Position(worker.grant.lease, index)
            at = end
        return NOWHERE

    def _start_new(self) -> None:
        if self._has_new_starts:
            self._has_new_starts = False
            self._give_places()

    def _give_places(self) -> None:
        for remote in self.places.give_places():
            assert remote.node is not None
            remote.node.slots.add(remote.spec.slot)
            worker = self.workers[remote.spec.slot]
            self.reactor.at(self.draw.uniform(0.05, 0.5), lambda worker=worker: self._ready(worker))

    def waits_for_place(self, slot: int) -> bool:
        return slot in self.places.waiting

    def withdraw_start(self, slot: int) -> bool:
        return self.places.withdraw(slot) is not None

    # -- workers -------------------------------------------------------------------------------

    def start(self, spec: Any, generation: int) -> int:
        worker = VirtualWorker(RemoteWorker(spec, generation), is_here=spec.mode == "thread")
        self.workers[spec.slot] = worker
        if worker.is_here:
            self.reactor.at(0, lambda: self._ready(worker))
        else:
            self.places.add_waiting(worker.remote)
            self._has_new_starts = True
        return 0

    def _ready(self, worker: VirtualWorker) -> Any:
        return self._say(worker, Ready(1, worker.remote.node.name if worker.remote.node else ""))

    def _say(self, worker: VirtualWorker, message: Any) -> Any:
        spec = worker.remote.spec
        return MessageReceived(spec.slot, worker.remote.generation, message) if worker.is_alive else None

    def send(self, slot: int, message: Any) -> None:
        worker = self.workers[slot]
        if not worker.is_alive:
            return
        if isinstance(message, Grant):
            assert not worker.is_leaving, "it is to go, and is given more"
            worker.grants.append(message)
            self._begin(worker)
        elif isinstance(message, Credit):
            count = min(message.total_items, self.weather.items) - worker.made
            if count > 0:
                items = list(range(worker.made, worker.made + count))
                worker.made += count
                made = Produced(count, (Output(0, count, 8 * count, items),), 0.0)
                self.reactor.at(0, lambda: self._say(worker, made))
            if worker.made == self.weather.items:
                self._finish(worker)
        elif isinstance(message, Stop):
            worker.is_told_to_stop = True
            if worker.grant is None:
                self._finish(worker)

    @staticmethod
    def _items(grant: Grant) -> list[int]:
        return [item for part in grant.parts for item in part.payload[part.start : part.start + part.count]]

    def _item_seconds(self, item: int) -> float:
        return 3.0 if (item * 2654435761) % 1000 < 1000 * self.weather.long else self.weather.item_seconds

    def _begin(self, worker: VirtualWorker) -> None:
        if worker.grant is not None or not worker.grants:
            return
        worker.grant, worker.began = worker.grants.pop(0), self.reactor.clock.now()
        items = self._items(worker.grant)
        if worker.is_here:
            seconds = 0.0
        else:
            seconds = sum(map(self._item_seconds, items))
            for item in items:
                self.under_way[item] += 1
                self.at_once += self.under_way[item] > 1
        self.reactor.at(seconds, lambda: self._done(worker, seconds))

    def _end_executing(self, grant: Grant | None, items: list[int]) -> None:
        assert grant is not None
        for item in items:
            self.under_way[item] -= 1

    def _done(self, worker: VirtualWorker, seconds: float) -> Any:
        if not worker.is_alive or worker.grant is None:
            return None
        grant, worker.grant = worker.grant, None
        items = self._items(grant)
        if worker.is_here:
            self.arrived += items
        else:
            self._end_executing(grant, items)
        outputs = (Output(0, len(items), 8 * len(items), items),) if worker.remote.spec.output_groups else ()
        answer = self._say(worker, Reply((Ack(grant.lease, len(items)),), outputs, max(seconds, 1e-5)))
        if worker.grants:
            self._begin(worker)
        elif worker.is_told_to_stop:
            self._finish(worker)
        return answer

    def _finish(self, worker: VirtualWorker) -> None:
        self.reactor.at(0, lambda: self._say(worker, Finished(returned_early=False)))
        self.reactor.at(0.001, lambda: self._exit(worker, ExitStatus(code=0)))

    def _exit(self, worker: VirtualWorker, exit_status: ExitStatus) -> Any:
        if not worker.is_alive:
            return None
        worker.is_alive = False
        if not worker.is_here:
            self.places.give_back(worker.remote, worker.remote.node)
            self._give_places()
        spec = worker.remote.spec
        return WorkerExited(spec.slot, worker.remote.generation, exit_status, NOWHERE)

    def kill(self, slot: int) -> bool:
        worker = self.workers[slot]
        if self.places.withdraw(slot) is not None:
            worker.is_alive = False
        self.reactor.at(0.001, lambda: self._exit(worker, ExitStatus(signal=9)))
        return True

    def current_position(self, slot: int) -> Position:
        return NOWHERE

    def request_stack(self, slot: int) -> None:
        """Nobody asks."""

    def read_stack(self, slot: int) -> str:
        return ""

    def resident_bytes(self, slot: int) -> int:
        return 0

    def pause_workers(self, *, going_on: bool) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """Nothing is open."""


def simulate_nodes(weather: Weather, seed: int = 1, workers: int = 0) -> tuple[VirtualNodes, MeasuredReactor, Any]:
    """Run one pipeline: a source here, `workers` there (one for each place that all machines have), a sink here.

    Everything that must hold is checked: each item arrives once, or is a dead letter after it has stood on three
    machines when they were lost; none is at two places at once; the balance.
    """
    count = workers or weather.nodes * weather.places
    tasks = [
        task("give", (), ("q",)),
        task("work", ("q",), ("r",), count=count, restarts=Restarts(0)),
        task("keep", ("r",)),
    ]
    made = plan_of(tasks, [QueueConfig("q", elastic=True), QueueConfig("r", elastic=True)])
    here = {name: replace(each, mode="thread") for name, each in made.tasks.items() if name != "work"}
    made = replace(made, tasks={**made.tasks, **here})
    clock = FakeClock()
    reactor = MeasuredReactor(clock)
    nodes = VirtualNodes(reactor, weather, seed)
    seen: list[Any] = []
    supervisor = Supervisor(made, {"process": nodes, "thread": nodes}, reactor, clock, seen.append)
    gc.collect()
    gc.freeze()
    try:
        result = supervisor.run()
    finally:
        gc.unfreeze()
    nodes.is_over = True
    check_end(result, seen[-1])
    dead = {item for item, times in nodes.blamed.items() if times >= 3}
    assert sorted(nodes.arrived) == sorted(set(range(weather.items)) - dead)
    assert result.headline.dead == len(dead)
    assert not nodes.at_once
    assert result.exit_code == (4 if dead else 0), result
    return nodes, reactor, result
