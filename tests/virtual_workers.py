"""Workers whose loop over items is the real one, on a virtual clock: calling the function only lets time pass.

The supervisor is real, and so is `worker.each.Items`, which decides when to read the clock and when to hand back.
Only what is between them is not: messages take no time, and a source makes its items at the moments it is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, log2
from typing import TYPE_CHECKING, Any

from fake_engine import FakeClock, FakeEngine, FakeReactor, FakeWorker, Script, check_end, plan, task
from ranges import RangeOracle

from runner import worker_scaling
from runner.engines.engine_events import MessageReceived
from runner.events import WorkersChanged
from runner.model import QueueConfig
from runner.supervisor.loop import Supervisor
from runner.supervisor.run_state import Phase
from runner.transport import item_codec
from runner.transport.messages import CLASSES_PER_DOUBLING, Grant, MeasuredTimes, Output, Produced, Reply
from runner.worker import call
from runner.worker.measurements import Measurements
from runner.worker.outputs import MAX_CHUNK_ITEMS, OutputBuffer
from runner.worker.runtime import WorkerRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.model import TaskConfig


@dataclass
class Given:
    """One grant: when a worker got it, began and ended it, and how it came out."""

    at: float
    task: str
    slot: int
    first: int
    items: int
    bytes: int
    #: Items of the task that were left in its queue, and that the worker held besides.
    left: int
    held: int
    began: float = -1.0
    ended: float = -1.0
    done: int = 0
    #: The longest that the worker said nothing meanwhile.
    silent: float = 0.0


class _Port:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def send(self, message: Any) -> None:
        if isinstance(message, Reply):  # what a worker measures is sent by the real clock
            self.desk.said.append((self.desk.time, message))


@dataclass
class Desk:
    """What the real loop works with. `time` runs ahead of the hub's clock while a grant is executed."""

    items: call.PerItem = None  # type: ignore[assignment]
    time: float = 0.0
    said: list[tuple[float, Any]] = field(default_factory=list)


class DeskFleet(FakeEngine):
    """`costs[task](item)` is what an item costs, in seconds; a source makes item `n` at `moments(n)`, those of one moment together."""

    def __init__(
        self,
        hub: FakeReactor,
        count: int,
        costs: dict[str, Callable[[int], float]],
        moments: Callable[[int], float] | None = None,
        size: int = 8,
    ) -> None:
        super().__init__(hub, Script(0), count)
        self.costs, self.moments, self.item_size = costs, moments, size
        self.desks: dict[int, Desk] = {}
        self.given: list[Given] = []
        self.grants: dict[int, Given] = {}
        self.arrived: dict[int, float] = {}
        self.executed: dict[str, list[int]] = {}
        #: Processors, of which each executing worker needs one; None: items only wait.
        self.cores: int | None = None
        self.supervisor: Supervisor

    def start(self, spec: Any, life: int) -> int:
        desk = self.desks[spec.slot] = Desk()
        done = self.executed.setdefault(spec.task, [])
        cost: Any = self.costs.get(spec.task)

        def target(item: int) -> int:
            desk.time += cost(item) * self._slowness()
            done.append(item)
            return item

        shape = self.supervisor.plan.tasks[spec.task].shape
        port: Any = _Port(desk)
        no_context: Any = None
        outputs = OutputBuffer(spec.output_groups)
        bench = WorkerRuntime(spec, port, [0, 0], outputs, no_context, shape, Measurements(port, "process"))
        desk.items = call.PerItem(bench, target)
        self.workers[spec.slot] = worker = FakeWorker(spec, life)
        self.hub.at(0.0, lambda: self._ready(worker))
        return 1000 + int(spec.slot)

    def _slowness(self) -> float:
        busy = sum(each.busy for each in self.workers.values() if each.spec.inputs)
        return 1.0 if self.cores is None else max(1.0, busy / self.cores)

    # -- a source ------------------------------------------------------------------------------

    def _make(self, worker: FakeWorker) -> None:
        if worker.busy:
            return
        if worker.stop or worker.made >= self.source_items:
            self._finish(worker)
            return
        room = min(worker.total, self.source_items) - worker.made
        if room <= 0:
            return
        worker.busy = True
        if self.moments is None:
            self.hub.at(0.0, lambda: self._sent(worker, min(room, 8 * MAX_CHUNK_ITEMS)))
        else:
            when, count = self.moments(worker.made), 1
            while count < room and self.moments(worker.made + count) == when:
                count += 1
            self.hub.at(max(0.0, when - self.hub.clock.now()), lambda: self._sent(worker, count))

    def _sent(self, worker: FakeWorker, count: int) -> Any:
        worker.busy = False
        first, worker.made = worker.made, worker.made + count
        outputs = []
        for start in range(first, worker.made, MAX_CHUNK_ITEMS):
            items = list(range(start, min(worker.made, start + MAX_CHUNK_ITEMS)))
            payload = item_codec.encode_values(items, {int})
            outputs += [
                Output(group, len(items), self.item_size * len(items), payload)
                for group in range(len(worker.spec.output_groups))
            ]
        if self.moments is not None:
            self.arrived.update(dict.fromkeys(range(first, worker.made), self.hub.clock.now()))
        self.hub.at(0.0, lambda: self._make(worker))
        return MessageReceived(worker.spec.slot, worker.life, Produced(count, tuple(outputs), 0.0))

    # -- the others ----------------------------------------------------------------------------

    def send(self, slot: int, message: Any) -> None:
        if isinstance(message, Grant):
            spec = self.workers[slot].spec
            lease = self.supervisor.ledger.leases[message.lease]
            given = Given(
                at=self.hub.clock.now(),
                task=spec.task,
                slot=slot,
                first=item_codec.decode_payload(message.parts[0].payload)[message.parts[0].start],
                items=lease.count,
                bytes=sum(piece.size for _, piece in lease.item_ranges),
                left=self.supervisor.ledger.available_items(spec.task),
                held=len(self.supervisor.state.slots[slot].leases) - 1,
            )
            self.given.append(given)
            self.grants[message.lease] = given
        super().send(slot, message)

    def _begin(self, worker: FakeWorker) -> None:
        if worker.busy or not worker.waiting:
            return
        worker.busy = True
        grant, desk = worker.waiting.pop(0), self.desks[worker.spec.slot]
        given = self.grants[grant.lease]
        given.began = now = self.hub.clock.now()
        desk.time, desk.said = now, []
        module: Any = call
        clock, module.perf_counter = module.perf_counter, lambda: desk.time
        try:
            answer = desk.items.execute_grant(grant)
        finally:
            module.perf_counter = clock
        heard = now
        for when, early in (*desk.said, (desk.time, answer)):
            given.silent = max(given.silent, when - heard)
            given.done += early.acks[0].done
            heard = when
        given.ended = desk.time
        if worker.spec.task in self.adaptive_tasks and given.done:
            self._measure(worker, given)
        for when, early in desk.said:
            self.hub.at(when - now, lambda early=early: MessageReceived(worker.spec.slot, worker.life, early))
        self.hub.at(desk.time - now, lambda: self._over(worker, answer))

    def _measure(self, worker: FakeWorker, given: Given) -> None:
        seconds = given.ended - given.began
        key = ceil(log2(max(seconds / given.done, 1e-9)) * CLASSES_PER_DOUBLING)
        used = 0.0 if self.cores is None else seconds / self._slowness()
        times = MeasuredTimes(((key, given.done),), used)
        self.hub.at(seconds, lambda: MessageReceived(worker.spec.slot, worker.life, times))

    def _over(self, worker: FakeWorker, answer: Reply) -> Any:
        worker.busy = False
        if worker.waiting:
            self._begin(worker)
        elif worker.stop:
            self.hub.at(0.0, lambda: self._finish(worker))
        return MessageReceived(worker.spec.slot, worker.life, answer)


def idle_beside_work(supervisor: Supervisor) -> None:
    """Between two events no item waits for nothing: a ready worker that holds nothing, and room for the result."""
    for name, each_task in supervisor.tasks.items():
        config = each_task.plan.config
        if not config.inputs or config.batch or config.rate or not supervisor.ledger.available_items(name):
            continue
        if supervisor.dispatcher.free_room(each_task)[1] or each_task.dismissed or supervisor.state.halted:
            continue
        idle = [
            slot.name
            for slot in each_task.slots
            if slot.phase is Phase.READY and not (slot.leases or slot.retiring or slot.overdue_position)
        ]
        assert not idle, f"{supervisor.ledger.available_items(name)} items of {name} wait beside {idle}"


@dataclass
class Day:
    """What came of one simulation. `began`: when the first grant was given; `ended`: when the last one was over."""

    fleet: DeskFleet
    supervisor: Supervisor
    given: list[Given]
    changes: list[WorkersChanged] = field(default_factory=list)

    @cached_property
    def began(self) -> float:
        return min(given.at for given in self.given)

    @cached_property
    def ended(self) -> float:
        return max(given.ended for given in self.given)

    @property
    def makespan(self) -> float:
        return self.ended - self.began


def day(
    tasks: list[TaskConfig],
    count: int,
    costs: dict[str, Callable[[int], float]],
    moments: Callable[[int], float] | None = None,
    size: int = 8,
    queue: QueueConfig | None = None,
    queues: dict[str, QueueConfig] | None = None,
    cores: int | None = None,
) -> Day:
    """Run tasks (those without inputs are sources of `count` items) to their end.

    `queue` is what queues are like that are not in `queues`. With `cores`, items need processors.
    """
    names = {name for each_task in tasks for name in (*each_task.inputs, *each_task.outputs)}
    made = {name: replace(queue or QueueConfig("", elastic=True), name=name) for name in sorted(names)} | (queues or {})
    clock = FakeClock()
    hub = FakeReactor(clock)
    seen: list[Any] = []
    fleet = DeskFleet(hub, count, costs, moments, size)
    fleet.adaptive_tasks = {each_task.name for each_task in tasks if each_task.least_workers}
    fleet.cores = cores
    planned = plan(tasks, [*made.values()])
    ranges = RangeOracle(planned, fleet, worker_scaling.INTERVAL)

    def hear(event: Any) -> None:
        seen.append(event)
        ranges.hear(event)

    supervisor = Supervisor(planned, {"process": fleet, "thread": fleet}, hub, clock, hear)
    fleet.supervisor = supervisor

    def check() -> None:
        idle_beside_work(supervisor)
        ranges.look(supervisor)

    hub.check = check
    result = supervisor.run()
    check_end(result, seen[-1])
    assert result.exit_code == 0, result
    for each_task in tasks:
        if each_task.inputs:
            assert sorted(fleet.executed[each_task.name]) == list(range(count)), each_task.name
    changes = [event for event in seen if isinstance(event, WorkersChanged)]
    return Day(fleet, supervisor, fleet.given, changes)


def work(count: int, cost: Callable[[int], float], workers: int = 2, **more: Any) -> Day:
    """A source that is always ahead (unless `moments` says when it makes what), and workers that end what it makes."""
    tasks = [task("source", (), ("q",)), task("work", ("q",), count=workers)]
    return day(tasks, count, {"work": cost}, **more)
