"""A scripted engine on a virtual clock: random topologies, costs, failures and deaths, all from one seed.

The supervisor under test is the real one. A fake worker's items are tuples (root, path...), so that what must arrive
can be computed without running anything.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lane_watch import sort_outputs
from ranges import RangeOracle
from virtual_disk import VirtualDisk, VirtualKeeper

from runner.engines.engine_events import (
    Announcement,
    ExitStatus,
    MessageReceived,
    SignalReceived,
    WorkerExited,
    WorkerLeaving,
)
from runner.error_text import ErrorText
from runner.events import STATES, NodeJoined, RunEnded
from runner.model import Backoff, OutputPort, QueueConfig, RunSettings, TaskConfig
from runner.supervisor.loop import Supervisor
from runner.supervisor.plan import Plan, TaskPlan
from runner.tasks import Reference, Shape
from runner.transport.messages import (
    CLASSES_PER_DOUBLING,
    Ack,
    Credit,
    Failure,
    Finished,
    Grant,
    MeasuredTimes,
    Output,
    Produced,
    Ready,
    Reply,
    Stop,
)
from runner.transport.progress_page import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lane_watch import LaneWatch


#: So many items may a source be ahead at most: the next 15 such numbers of items still fit into a message.
MOST_AHEAD = 1 << 60


class FakeClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


@dataclass
class Script:
    """How the tasks of one scenario behave. Every decision about an item is a function of the seed and the item."""

    seed: int
    cost: float = 0.001
    #: Now and then a source makes its next item only after so many seconds.
    pause: float = 0.0
    skew: float = 0.0
    spread: int = 1
    fails: float = 0.0
    kills: float = 0.0
    poison: float = 0.0
    #: Of items so many end everything, the supervisor as well.
    fatal: float = 0.0
    random_deaths: float = 0.0
    #: Of a source's workers so many die, twice each at most, and others go on in their place.
    source_deaths: float = 0.0
    hangs: float = 0.0
    handback: bool = True
    #: So many machines have the workers, each a place for two; they die, leave with notice, and join again.
    machines: int = 0

    def draw(self, *key: object) -> random.Random:
        return random.Random(repr((self.seed, *key)))

    def children(self, task: str, item: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self.spread == 1:
            return [(*item, 0)]
        count = self.draw("children", task, item).choice([0, 1, 1, 2, self.spread])
        return [(*item, index) for index in range(count)]

    def seconds(self, task: str, item: tuple[Any, ...]) -> float:
        draw = self.draw("cost", task, item)
        return self.cost * (2000 if draw.random() < self.skew else draw.uniform(0.5, 1.5))

    def outcome(self, task: str, item: tuple[Any, ...], attempt: int, crashes: int) -> str:
        if self.fatal and self.draw("fatal", task, item).random() < self.fatal:
            return "end"
        draw = self.draw("outcome", task, item)
        if draw.random() < self.poison:
            return "kill"
        if draw.random() < self.kills and crashes == 0:
            return "kill"
        if draw.random() < self.fails:
            return "fail" if attempt <= draw.choice([1, 1, 99]) else "ok"
        if draw.random() < self.hangs:
            return "hang" if attempt <= draw.choice([1, 99]) else "ok"
        return "ok"


class FakeReactor:
    """Virtual time: `wait` jumps to the next thing that happens, or to the timeout."""

    limit = 400_000

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.heap: list[tuple[float, int, Any]] = []
        self.count = 0
        self.steps = 0
        self.check: Any = None

    def at(self, delay: float, deed: Any) -> None:
        self.count += 1
        heapq.heappush(self.heap, (self.clock.now() + delay, self.count, deed))

    def wait(self, timeout: float | None) -> list[Any]:
        self.steps += 1
        assert self.steps < self.limit, "it does not end"
        if self.check is not None:
            self.check()
        now = self.clock.now()
        limit = None if timeout is None else now + timeout
        if not self.heap or (limit is not None and self.heap[0][0] > limit):
            assert limit is not None, "the supervisor waits for ever, and nothing will happen"
            self.clock.advance(limit - now)
            return []
        when, _, deed = heapq.heappop(self.heap)
        self.clock.advance(max(0.0, when - now))
        event = deed()
        return [] if event is None else [event]

    def suspend_process(self) -> None:
        raise AssertionError("nothing here sends SIGTSTP")


@dataclass
class FakeWorker:
    spec: Any
    life: int
    alive: bool = True
    busy: bool = False
    waiting: list[Grant] = field(default_factory=list)
    lease: int = 0
    index: int = 0
    total: int = 0
    made: int = 0
    #: A source's items that were given in an earlier life of the run.
    stop: bool = False
    finished: bool = False
    suspect: bool = False
    told: int = 0
    #: Items that have failed for good, which it has not said yet.
    given_up: list[Any] = field(default_factory=list)
    #: A source's items that wait until it is told that the others have arrived, or until they are `push` many.
    kept: int = 0
    idle: bool = True
    push: int = 1
    #: Messages that have not arrived.
    under_way: int = 0
    #: Its machine; what it has executed since when.
    machine: int = 0
    since: float = 0.0
    #: The supervisor has been told that it is to go.
    has_notice: bool = False
    #: It has said that it is ready.
    is_ready: bool = False

    @property
    def due(self) -> bool:
        return self.kept > 0 and (self.idle or self.kept >= min(self.push, self.total - self.made + self.kept))


class FakeEngine:
    """Workers that only exist on the heap."""

    def __init__(self, hub: FakeReactor, script: Script, source_items: int) -> None:
        self.hub, self.script, self.source_items = hub, script, source_items
        self.workers: dict[int, FakeWorker] = {}
        self.received: dict[str, list[Any]] = {}
        self.order: dict[str, list[Any]] = {}
        self.random = random.Random(script.seed)
        #: Says which single items of sources are not to be confirmed.
        self.slow_items = random.Random(f"slow {script.seed}")
        #: Says which workers of sources die, and when.
        self.source_deaths = random.Random(f"source deaths {script.seed}")
        self.source_lives: Counter[str] = Counter()
        #: Follows what is executed of queues with lanes, if there are any.
        self.lanes: LaneWatch | None = None
        self.deaths = 0
        self.started = 0
        #: Machines that are there, and those that are leaving; workers that wait for a place, in turn.
        self.machines: set[int] = set()
        self.leaving: set[int] = set()
        self.waiting: list[FakeWorker] = []
        self.chance = random.Random(f"machines {script.seed}")
        self.lost_machines = 0
        #: Tasks whose number of workers follows the load.
        self.adaptive_tasks: set[str] = set()
        #: Workers that were killed, by task.
        self.kills: Counter[str] = Counter()
        for number in range(1, script.machines + 1):
            self._join_later(number)

    def start(self, spec: Any, life: int) -> int:
        worker = FakeWorker(spec, life)
        self.workers[spec.slot] = worker
        self.started += 1
        if self.script.machines:
            self.waiting.append(worker)
            self._place()
            return 0
        self.hub.at(self.random.uniform(0, 0.01), lambda: self._ready(worker))
        return 1000 + self.started

    # -- machines ------------------------------------------------------------------------------

    def _join_later(self, number: int) -> None:
        def join() -> Any:
            self.machines.add(number)
            if self.lost_machines < 20:  # else it would never end
                self.hub.at(self.chance.choice([0.01, 0.1, 1.0, 10.0]), lambda: self._go(number))
            self._place()
            return Announcement(NodeJoined(self.hub.clock.now(), str(number), "fake", 2))

        self.hub.at(self.chance.choice([0, 0.001, 0.1, 3.0]), join)

    def on_machine(self, number: int) -> list[FakeWorker]:
        return [each for each in self.workers.values() if each.machine == number and each.alive]

    def _place(self) -> None:
        """Start what waits: two workers on a machine, and the first of each task wherever there is one."""
        open_ = sorted(self.machines - self.leaving)
        for worker in list(self.waiting) if open_ else ():
            there = [each for number in self.machines for each in self.on_machine(number)]
            number = min(open_, key=lambda each: len(self.on_machine(each)))
            is_first = all(each.spec.task != worker.spec.task for each in there)
            if is_first or len(self.on_machine(number)) < 2:
                self.waiting.remove(worker)
                worker.machine = number
                self.hub.at(self.random.uniform(0, 0.01), lambda worker=worker: self._ready(worker))

    def waits_for_place(self, slot: int) -> bool:
        return self.workers[slot] in self.waiting

    def withdraw_start(self, slot: int) -> bool:
        worker = self.workers[slot]
        if worker not in self.waiting:
            return False
        self.waiting.remove(worker)
        worker.alive = False
        return True

    def _go(self, number: int, pause: float = 0.01) -> Any:
        """A machine dies, or says that it will; one with an item over which workers have died stays.

        It is looked again after a `pause`, which doubles: thousands of looks at an item that takes minutes show nothing.
        """
        if any(worker.suspect for worker in self.on_machine(number)):
            self.hub.at(pause, lambda: self._go(number, min(2 * pause, 5.0)))
            return None
        self.lost_machines += 1
        if self.chance.random() < 0.4:
            self.leaving.add(number)
            for worker in self.on_machine(number):
                self.hub.at(0, lambda worker=worker: self._give_notice(worker))
            self._leave_when_idle(number)
            return None
        self._lose(number)
        return None

    @staticmethod
    def _give_notice(worker: FakeWorker) -> Any:
        worker.has_notice = worker.alive
        return WorkerLeaving(worker.spec.slot, worker.life)

    def _leave_when_idle(self, number: int, pause: float = 0.05) -> None:
        if self.on_machine(number):
            self.hub.at(pause, lambda: self._leave_when_idle(number, min(2 * pause, 5.0)))
        else:
            self.leaving.discard(number)
            self._lose(number)

    def _lose(self, number: int) -> None:
        lost = self.on_machine(number)
        self.machines.discard(number)
        for worker in lost:
            worker.alive = False
            stood = worker.lease and self.hub.clock.now() - worker.since > 1.0
            position = Position(worker.lease, worker.index) if stood else Position(0, 0)
            gone = WorkerExited(worker.spec.slot, worker.life, ExitStatus(text="lost"), position, lost=True)
            self.hub.at(0, lambda gone=gone: gone)
        self._join_later(number)

    def _ready(self, worker: FakeWorker) -> Any:
        if not worker.alive:
            return None
        if self.script.random_deaths and self.random.random() < self.script.random_deaths:
            self.hub.at(self.random.uniform(0, 0.05), lambda: self._strike(worker))
        name = worker.spec.name
        if not worker.spec.inputs and self.source_deaths.random() < self.script.source_deaths:
            self.source_lives[name] += 1
            if self.source_lives[name] <= 2:
                when = self.source_deaths.choice([0.0, 0.001, 0.05, 1.0])
                self.hub.at(when, lambda: self._die(worker) if worker.alive and not worker.finished else None)
        worker.is_ready = True
        return MessageReceived(worker.spec.slot, worker.life, Ready(1))

    def _strike(self, worker: FakeWorker) -> Any:
        """Bad luck from outside; three strikes would kill an innocent item, so one that was struck is spared."""
        return self._die(worker) if worker.spec.inputs and not worker.suspect else None

    def send(self, slot: int, message: Any) -> None:
        worker = self.workers[slot]
        if not worker.alive:
            return
        if isinstance(message, Grant):
            assert not worker.has_notice, f"{worker.spec.name} is to go, and is given more"
            for grant in (message, *message.other_grants):
                worker.waiting.append(grant)
                self._begin(worker)
        elif isinstance(message, Credit):
            ahead = message.total_items - worker.made
            assert ahead <= MOST_AHEAD, (
                f"{worker.spec.name} may be {ahead} items ahead, and at some time no message holds it"
            )
            worker.total, worker.idle = message.total_items, True
            worker.push = max(1, (worker.total - worker.made + worker.kept) // 2)
            self._leave(worker)
            self._make(worker)
        elif isinstance(message, Stop) and (message.inputs_ended or not worker.spec.inputs):
            worker.stop = True  # one with inputs goes on until they have ended, as a real one
            if not worker.busy and not worker.waiting:
                self._finish(worker)

    # -- sources -------------------------------------------------------------------------------

    def _make(self, worker: FakeWorker) -> None:
        if worker.busy or not worker.alive:
            return
        left = self.source_items - worker.spec.restart_point.given_items
        room = min(worker.total, left) - worker.made
        if worker.stop or worker.made >= left:
            self._leave(worker, last=True)
            self._finish(worker)
        elif room > 0:
            worker.busy = True
            count = self.random.randint(1, room)
            pause = self.script.pause if self.random.random() < 0.02 else 0.0
            self.hub.at(pause + self.script.cost * count * 0.1, lambda: self._made_some(worker, count))

    def _made_some(self, worker: FakeWorker, count: int) -> Any:
        worker.busy = False
        if worker.alive:
            worker.made += count
            worker.kept += count
            self._leave(worker)
            self.hub.at(0, lambda: self._make(worker))

    def _leave(self, worker: FakeWorker, *, last: bool = False) -> None:
        """What was made leaves when nothing is under way, or much of it waits; else with the next credit."""
        if not worker.alive or not (worker.due or (last and worker.kept)):
            return
        count, worker.kept = worker.kept, 0
        wants_ack = self.slow_items.random() < 0.5 if count == 1 else True
        worker.idle = not wants_ack
        name = worker.spec.name
        end = worker.spec.restart_point.given_items + worker.made
        items = [(name, index) for index in range(end - count, end)]
        outputs = self._outputs_of(worker, items)
        made = Produced(count, outputs, self.script.cost * count * 0.1, wants_ack=wants_ack)
        worker.under_way += 1

        def arrive() -> Any:
            worker.under_way -= 1
            return MessageReceived(worker.spec.slot, worker.life, made) if worker.alive else None

        self.hub.at(0, arrive)

    # -- the others ----------------------------------------------------------------------------

    def _begin(self, worker: FakeWorker) -> None:
        if worker.busy or not worker.waiting or not worker.alive:
            return
        worker.busy = True
        worker.told = 0
        grant = worker.waiting.pop(0)
        work = [(part, item) for part in grant.parts for item in part.payload[part.start : part.start + part.count]]
        self._next(worker, grant, work, 0, [], [], 0.0)

    def _next(self, worker: FakeWorker, grant: Grant, work: Any, at: int, outs: Any, fails: Any, spent: float) -> None:
        worker.lease, worker.index, worker.since = grant.lease, at, self.hub.clock.now()
        late = self.script.handback and at and spent > 2 * grant.time_slice
        stops = bool(fails) and worker.spec.stops_at_failure
        if at < len(work) and late and worker.spec.is_only_worker and not stops:
            self._say_so_far(worker, grant, at, outs, fails, spent)
            outs, fails, spent = [], [], 0.0
        elif at == len(work) or late or stops:
            self._answer(worker, grant, at, outs, fails, spent)
            return
        part, item = work[at]
        worker.suspect = part.crashes > 0
        task = worker.spec.task
        seconds = self.script.seconds(task, item)
        outcome = self.script.outcome(task, item, part.attempt, part.crashes)
        if self.lanes is not None:
            self.lanes.begin(worker, grant, at, [item])

        def done() -> Any:
            if not worker.alive:
                return None
            if outcome == "end":
                self.end_everything(task, item)
            if outcome == "kill":
                return self._die(worker)
            self._end_in_lane(worker, grant, item, is_over=outcome == "ok" or part.attempt >= worker.spec.attempts)
            if outcome == "fail":
                verdict: Any = "retry" if part.attempt < worker.spec.attempts else "error"
                worker.given_up += [item] if verdict == "error" else []
                fails.append(
                    Failure(at - worker.told, 1, ErrorText("ValueError", "scripted", "", ("ValueError",)), "", verdict)
                )
            else:
                outs.append(item)
            self._next(worker, grant, work, at + 1, outs, fails, spent + seconds)
            return None

        if outcome != "hang":
            self.hub.at(seconds, done)

    def _end_in_lane(self, worker: FakeWorker, grant: Grant, item: Any, *, is_over: bool) -> None:
        if self.lanes is not None:
            self.lanes.end(worker, grant, [item] if is_over else [])

    def end_everything(self, task: str, item: Any) -> None:
        """An item has ended the supervisor as well: a subclass raises what stands for that."""
        raise NotImplementedError

    def _say_so_far(self, worker: FakeWorker, grant: Grant, at: int, outs: Any, fails: Any, spent: float) -> None:
        """An only worker's answer for what is over; it goes on with the rest."""
        answer = self._made_of(worker, Ack(grant.lease, at - worker.told, tuple(fails), keeps_rest=True), outs, spent)
        worker.told = at
        given_up, worker.given_up = worker.given_up, []

        def say() -> Any:
            if not worker.alive:
                return None
            self.received.setdefault(worker.spec.task, []).extend(outs)
            if self.lanes is not None:
                self.lanes.over(worker, worker.spec.task, [*outs, *given_up])
            return MessageReceived(worker.spec.slot, worker.life, answer)

        self.hub.at(0, say)

    @staticmethod
    def _outputs_of(worker: FakeWorker, items: list[Any]) -> tuple[Output, ...]:
        return tuple(
            Output(at, len(part), 10 * len(part), part, bucket=bucket)
            for at, group in enumerate(worker.spec.output_groups)
            for bucket, part in sort_outputs(group, items).items()
        )

    def _made_of(self, worker: FakeWorker, ack: Ack, outs: Any, spent: float) -> Reply:
        task = worker.spec.task
        if worker.spec.output_groups:
            children = [child for item in outs for child in self.script.children(task, item)]
            outputs = self._outputs_of(worker, children)
        else:
            outputs = ()
        return Reply((ack,), outputs, spent)

    def _answer(self, worker: FakeWorker, grant: Grant, at: int, outs: Any, fails: Any, spent: float) -> None:
        answer = self._made_of(worker, Ack(grant.lease, at - worker.told, tuple(fails)), outs, spent)
        task = worker.spec.task
        given_up, worker.given_up = worker.given_up, []

        def say() -> Any:
            if not worker.alive:
                return None
            worker.busy = False
            worker.lease = 0
            worker.suspect = False
            self.received.setdefault(task, []).extend(outs)
            self._tell_times(worker, at, spent)
            if self.lanes is not None:
                self.lanes.over(worker, task, [*outs, *given_up])
            if worker.waiting:
                self._begin(worker)
            elif worker.stop:
                self._finish(worker)
            return MessageReceived(worker.spec.slot, worker.life, answer)

        self.hub.at(0, say)

    def _tell_times(self, worker: FakeWorker, items: int, seconds: float) -> None:
        """Tell what items took, of which the decisions on the number of workers are made; they take no processor."""
        if items and self.adaptive_tasks and worker.spec.task in self.adaptive_tasks:
            times = MeasuredTimes(((ceil(log2(max(seconds / items, 1e-9)) * CLASSES_PER_DOUBLING), items),), 0.0)
            self.hub.at(0, lambda: MessageReceived(worker.spec.slot, worker.life, times) if worker.alive else None)

    def _finish(self, worker: FakeWorker) -> None:
        if worker.finished:
            return
        worker.finished = True

        def gone() -> Any:
            if not worker.alive:
                return None
            worker.alive = False
            self._place()
            return WorkerExited(worker.spec.slot, worker.life, ExitStatus(code=0), Position(0, 0))

        # A source that is stopped has more, as a real one says.
        made = worker.spec.restart_point.given_items + worker.made
        early = not worker.spec.inputs and made < self.source_items
        end = MessageReceived(worker.spec.slot, worker.life, Finished(returned_early=early))
        self.hub.at(0, lambda: end if worker.alive else None)
        self.hub.at(0.0001, gone)

    def _die(self, worker: FakeWorker) -> Any:
        if not worker.alive:
            return None
        worker.alive = False
        if self.lanes is not None:
            self.lanes.die(worker)
        self.deaths += 1
        if worker in self.waiting:
            self.waiting.remove(worker)
        self._place()
        return WorkerExited(worker.spec.slot, worker.life, ExitStatus(signal=9), Position(worker.lease, worker.index))

    def kill(self, slot: int) -> bool:
        worker = self.workers[slot]
        self.kills[worker.spec.task] += 1
        self.hub.at(0.0001, lambda: self._die(worker))
        return True

    def current_position(self, slot: int) -> Position:
        worker = self.workers[slot]
        return Position(worker.lease, worker.index)

    def request_stack(self, slot: int) -> None:
        pass

    def read_stack(self, slot: int) -> str:
        return ""

    def resident_bytes(self, slot: int) -> int:
        return self.random.randrange(200)

    def pause_workers(self, *, going_on: bool) -> None:
        pass

    def close(self) -> None:
        pass


# -- scenarios ---------------------------------------------------------------------------------


def task(name: str, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **options: Any) -> TaskConfig:
    count = options.pop("count", max(1, options.get("least_workers", 1)))
    names = tuple(name if count == 1 else f"{name}-{at + 1}" for at in range(count))
    ports = (OutputPort("default", outputs),) if outputs else ()
    return TaskConfig(
        name=name,
        call=name,
        inputs=inputs,
        ports=ports,
        mode="process",
        workers=names,
        **options,
    )


def plan(tasks: list[TaskConfig], queues: list[QueueConfig], **settings: Any) -> Plan:
    plans = {
        config.name: TaskPlan(config, "process", Reference("x", config.name), Shape("function"), b"")
        for config in tasks
    }
    return Plan("Sim", "sim", RunSettings(state=Path("x"), **settings), {q.name: q for q in queues}, plans)


def simulate(
    plan_: Plan,
    script: Script,
    source_items: int = 50,
    signals: Iterable[tuple[float, int]] = (),
    watch: Callable[[Supervisor], None] | None = None,
    durable: bool = False,
    interval: float = 1.0,
) -> tuple[Any, FakeEngine, Supervisor, list[Any]]:
    """Run a plan on the fake engine, the balance checked at every step; `signals` are times and numbers.

    `watch` looks at the supervisor whenever it waits. `durable`: with a disk, which takes its time. `interval`: the
    least time between two changes of a number of workers.
    """
    clock = FakeClock()
    hub = FakeReactor(clock)
    fleet = FakeEngine(hub, script, source_items)
    fleet.adaptive_tasks = {name for name, each in plan_.tasks.items() if each.config.least_workers}
    seen: list[Any] = []
    keeper = VirtualKeeper(hub, VirtualDisk(), script.seed, slowness=0.02) if durable else None
    ranges = RangeOracle(plan_, fleet, interval)

    def hear(event: Any) -> None:
        seen.append(event)
        ranges.hear(event)

    supervisor = Supervisor(plan_, {"process": fleet, "thread": fleet}, hub, clock, hear, keeper=keeper)

    def check() -> None:
        ranges.look(supervisor)
        for line in supervisor.ledger.subscriptions:
            tally = line.counts
            held = tally.done + tally.dead + tally.dropped + tally.left + line.count + line.leased_items
            assert tally.put == held, f"{line.name}: {tally} queued={line.count} leased={line.leased_items}"
            assert line.count >= 0
            assert line.leased_items >= 0
        if not durable:  # there they may wait for the disk
            kept_beside_idle(fleet, supervisor)
        for queue, expected in supervisor.dispatcher.expected_items.items():
            assert expected >= 0, f"{queue}: expected {expected}"
        if watch is not None:
            watch(supervisor)

    hub.check = check
    for when, number in signals:
        hub.at(when, lambda number=number: SignalReceived(number))
    result = supervisor.run()
    check_end(result, seen[-1])
    return result, fleet, supervisor, seen


def kept_beside_idle(fleet: FakeEngine, supervisor: Supervisor) -> None:
    """A source that was not told that its items have arrived keeps others back: then all who read them are busy."""
    for worker in fleet.workers.values():
        if not worker.kept or worker.idle or worker.under_way or not worker.alive or supervisor.state.stopping:
            continue
        source = supervisor.tasks[worker.spec.task]
        if source.dismissed or source.rate_limiter or supervisor.dispatcher.free_room(source)[1]:
            continue
        for queue in source.bounding_queues:
            for name in supervisor.topology.readers[queue]:
                reader = supervisor.tasks[name]
                idle = [slot.name for slot in reader.slots if slot.accepts_items and not slot.leases]
                assert not idle or reader.dismissed, f"{worker.spec.name} keeps {worker.kept} items back beside {idle}"


def check_end(result: Any, ended: RunEnded) -> None:
    assert not result.ended.unbalanced
    assert result.headline.missing == 0
    for task in ended.tasks:
        assert task.taken == task.done + task.dead + task.dropped + task.left
        for worker in task.workers:
            spent = [getattr(worker.spent, state) for state in STATES]
            assert abs(sum(spent) - ended.seconds) < 1e-6, f"{task.name}: {worker}"
            assert min(spent) >= -1e-9, f"{task.name}: {worker}"
    for queue in ended.queues:
        assert queue.put == queue.done + queue.dead + queue.dropped + queue.left


def random_plan(seed: int, **task_options: Any) -> Plan:
    """A random layered topology: sources, transforms, sinks; shared and copied queues; small and large bounds."""
    draw = random.Random(seed)
    layers = draw.randint(1, 4)
    queues: list[QueueConfig] = []
    tasks: list[TaskConfig] = []
    feeding: list[str] = []
    for index in range(draw.randint(1, 2)):
        name = f"q0_{index}"
        feeding.append(name)
        tasks.append(task(f"source{index}", (), (name,), count=draw.randint(1, 2)))
    readers: dict[str, int] = {}
    current = feeding
    for layer in range(1, layers + 1):
        last = layer == layers
        following = [] if last else [f"q{layer}_{index}" for index in range(draw.randint(1, 2))]
        unwritten, unread = set(following), set(current)
        for index in range(max(len(current), len(following), draw.randint(1, 2))):
            inputs = (unread.pop(),) if unread else (draw.choice(current),)
            outputs: tuple[str, ...] = () if last else ((unwritten.pop(),) if unwritten else (draw.choice(following),))
            if not last and draw.random() < 0.2:
                outputs = tuple(following)
            for queue in inputs:
                readers[queue] = readers.get(queue, 0) + 1
            tasks.append(
                task(
                    f"t{layer}_{index}",
                    inputs,
                    outputs,
                    count=draw.randint(1, 3),
                    backoff=Backoff(0.01, 2, 0.1, 0.1),
                    **task_options,
                )
            )
        current = following or current
    names = {queue for each in tasks for queue in (*each.inputs, *each.outputs)}
    for name in sorted(names):
        fanout: Any = draw.choice(["share", "copy"]) if readers.get(name, 0) > 1 else None
        queues.append(QueueConfig(name, size=draw.choice([1, 2, 10, 1000]), fanout=fanout))
    return plan(tasks, queues)
