"""Random topologies in which all features cross, on the scripted engine, and an oracle that follows every item.

The oracle trusts no counter of the engine's. It writes down what the fake workers are given and what they answer, item
by item, and what is decided over each item whose worker is gone. Then, for each queue and each group of its readers: what
was sent into it is what has ended in them, once each; what an ordered task sends has the order of its inputs; an only
worker ends what it reads in the order of the queue; and nothing is left. Of queues that drop items, so many are missing
as the balance says, and none of them was ever given to a worker; of queues with priorities, what is granted is never
behind what waits. Of queues with lanes, an item begins only when all that came before it in its lane have ended, and
no two workers execute items of one bucket at the same time.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from fake_engine import FakeClock, FakeEngine, FakeReactor, FakeWorker, Script, check_end, plan, task
from lane_watch import LANES, LaneWatch, bucket_of, lane_of, lanes_hold
from ranges import RangeOracle, decide_by_chance, with_ranges
from virtual_disk import VirtualDisk, VirtualKeeper

from runner.engines.engine_events import MessageReceived, SignalReceived, WorkerExited
from runner.error_text import ErrorText
from runner.ledger.leases import Again
from runner.model import Backoff, Batch, Lifespan, OutputPort, QueueConfig, Rate, Restarts
from runner.supervisor.dead_letters import DeadLetterPayload
from runner.supervisor.loop import Supervisor
from runner.tasks import Reference, Shape
from runner.transport.messages import Ack, Failure, Output, Produced, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from crossed_lives import Life

    from runner.supervisor.plan import Plan
    from runner.transport.messages import Grant, GrantedRange

#: An item: the source's worker and a number, and then each task that it has come through, with a number.
Item = tuple[Any, ...]
#: The most times that an item goes round a loop.
_ROUNDS = 3


def held_by(part: GrantedRange) -> list[Item]:
    """The items of a part; a dead letter is its item, marked."""
    if part.dead_letter is not None:
        return [("letter", *part.payload[part.start])]
    items: list[Item] = part.payload[part.start : part.start + part.count]
    return items


def _who(worker: FakeWorker) -> tuple[int, int]:
    return worker.spec.slot, worker.life


@dataclass
class Book:
    """What has happened to items, by the words of those to whom it happened."""

    #: What answers brought for each queue, and what the ledger took into each, in order.
    sent: dict[str, list[Item]] = field(default_factory=lambda: defaultdict(list))
    put: dict[str, list[Item]] = field(default_factory=lambda: defaultdict(list))
    #: What has ended in each task: done (in order), dead or dropped; and the items that were tried again.
    done: dict[str, list[Item]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, list[Item]] = field(default_factory=lambda: defaultdict(list))
    again: dict[str, set[Item]] = field(default_factory=lambda: defaultdict(set))
    #: Who put what into which queue, in order.
    by_sender: dict[tuple[str, str], list[Item]] = field(default_factory=lambda: defaultdict(list))


class CrossedFleet(FakeEngine):
    """Fake workers that also take batches, let many items fly, and choose among ports."""

    def __init__(self, hub: FakeReactor, script: Script, source_items: int, made: Plan) -> None:
        super().__init__(hub, script, source_items)
        self.plan = made
        self.book = Book()
        self.names: dict[str, Item] = {}
        self.adaptive_tasks = {name for name, each in made.tasks.items() if each.config.least_workers}
        #: Changes of numbers of workers that were told.
        self.changes = 0
        #: What workers were given, by task.
        self.given: dict[str, set[Item]] = defaultdict(set)
        self.flying: dict[tuple[int, int], list[tuple[Any, Any]]] = defaultdict(list)
        #: Workers that are being killed: nothing that they say counts.
        self.hushed: set[tuple[int, int]] = set()
        self.lanes: LaneWatch = LaneWatch(made)

    # -- what comes out ------------------------------------------------------------------------

    def port(self, worker: FakeWorker, item: Item) -> str | None:
        """Where an item goes, by chance; None: it has gone round often enough, and there is no other way."""
        ports = list(dict.fromkeys(group.port for group in worker.spec.output_groups))
        rounds = sum(1 for step in item if step == (worker.spec.task, "round"))
        if "round" in ports and rounds >= _ROUNDS:
            ports.remove("round")
        return self.script.draw("port", worker.spec.task, item).choice(ports) if ports else None

    def come(self, worker: FakeWorker, item: Item) -> Iterator[tuple[str | None, Item]]:
        """What an item becomes in a task, with the port to which it goes."""
        name = worker.spec.task
        if not worker.spec.output_groups:
            return
        count = 1 if self.script.spread == 1 else self.script.draw("children", name, item).choice([0, 1, 1, 2])
        for index in range(count):
            child = (*item, (name, index))
            port = self.port(worker, child)
            yield port, (*item, (name, "round")) if port == "round" and index == 0 else child

    def outputs(self, worker: FakeWorker, given: Iterable[tuple[str | None, Item]]) -> tuple[Output, ...]:
        ports: dict[str | None, list[Item]] = defaultdict(list)
        for port, item in given:
            ports[port].append(item)
        found = []
        for at, group in enumerate(worker.spec.output_groups):
            parts: dict[tuple[float, int], list[Item]] = defaultdict(list)
            for item in ports[group.port]:
                rank = self.rank(item) if group.has_priorities else 0.0
                parts[rank, bucket_of(item, group.bucket_bits) if group.lane else 0].append(item)
            found += [Output(at, len(items), 10 * len(items), items, (), *part) for part, items in parts.items()]
        return tuple(found)

    def rank(self, item: Item) -> float:
        return float(self.script.draw("rank", item).randrange(4))

    def _say(
        self, worker: FakeWorker, message: Any, ended: Iterable[Item], failures: Iterable[tuple[Item, bool]]
    ) -> Any:
        """A message that arrives, written down at that moment."""
        if _who(worker) in self.hushed:
            return None
        name = worker.spec.task
        for output in message.outputs:
            for queue in worker.spec.output_groups[output.group_index].queues:
                self.book.sent[queue] += output.payload
        ended = list(ended)
        self.book.done[name] += ended
        self.lanes.over(worker, name, [*ended, *(item for item, again in failures if not again)])
        for item, again in failures:
            if again:
                self.book.again[name].add(item)
            else:
                self._fail(name, item)
        return MessageReceived(worker.spec.slot, worker.life, message)

    def _fail(self, name: str, item: Item) -> None:
        config = self.plan.tasks[name].config
        self.book.failed[name].append(item)
        if config.on_error == "dead" and config.dead is not None:
            self.book.sent[config.dead].append(("letter", *item))

    def judged(self, task_name: str, item_id: str, *, again: bool) -> None:
        """What is decided over an item whose worker is gone; no worker knows of it."""
        item = self.names[item_id]
        if again:
            self.book.again[task_name].add(item)
        else:
            self.lanes.over(None, task_name, [item])
            self._fail(task_name, item)

    def _leave(self, worker: FakeWorker, *, last: bool = False) -> None:
        if not worker.alive or not (worker.due or (last and worker.kept)):
            return
        count, worker.kept = worker.kept, 0
        wants_ack = self.slow_items.random() < 0.5 if count == 1 else True
        worker.idle = not wants_ack
        end = worker.spec.restart_point.given_items + worker.made
        items = [(worker.spec.name, index) for index in range(end - count, end)]
        outputs = self.outputs(worker, [(self.port(worker, item), item) for item in items])
        made = Produced(count, outputs, 0.0, wants_ack=wants_ack)
        worker.under_way += 1

        def arrive() -> Any:
            worker.under_way -= 1
            return self._say(worker, made, (), ()) if worker.alive else None

        self.hub.at(0, arrive)

    # -- what goes in --------------------------------------------------------------------------

    def _begin(self, worker: FakeWorker) -> None:
        if not worker.alive or not worker.waiting:
            return
        if self.plan.tasks[worker.spec.task].is_async:
            self._launch(worker)
        elif not worker.busy:
            worker.busy, worker.told = True, 0
            grant = worker.waiting.pop(0)
            self._step(worker, grant, list(self._flat(worker.spec.task, grant)), 0, _Answered())

    def _flat(self, task_name: str, grant: Grant) -> Iterator[tuple[GrantedRange, Item]]:
        for part in grant.parts:
            for at, item in enumerate(held_by(part)):
                item_id = f"{part.chunk_number}.{0 if part.dead_letter is not None else part.start + at}"
                assert self.names.setdefault(item_id, item) == item, f"{item_id} names two items"
                self.given[task_name].add(item)
                yield part, item

    def _step(
        self, worker: FakeWorker, grant: Grant, work: list[tuple[GrantedRange, Item]], at: int, so_far: _Answered
    ) -> None:
        """The next item, or the next batch of them."""
        spec = worker.spec
        worker.lease, worker.index = grant.lease, at
        late = at > 0 and so_far.seconds > 2 * grant.time_slice
        stops = bool(so_far.failures) and spec.stops_at_failure
        if at < len(work) and late and spec.is_only_worker and not stops:
            self._tell(worker, grant, at, so_far, more=True)
            worker.told, so_far = at, _Answered()
        elif at == len(work) or late or stops:
            self._tell(worker, grant, at, so_far)
            return
        batch = work[at : at + (spec.batch or 1)]
        worker.suspect = any(part.crashes for part, _ in batch)
        attempt = batch[0][0].attempt
        outcomes = [self.script.outcome(spec.task, item, attempt, part.crashes) for part, item in batch]
        outcome = min(outcomes, key=("kill", "hang", "fail", "ok").index)
        seconds = sum(self.script.seconds(spec.task, item) for _, item in batch)
        self.lanes.begin(worker, grant, at, [item for _, item in batch])

        def done() -> Any:
            if not worker.alive:
                return None
            if outcome == "kill":
                return self._die(worker)
            items = [item for _, item in batch]
            is_over = outcome == "ok" or attempt >= spec.attempts
            self.lanes.end(worker, grant, items if is_over else ())
            if outcome == "fail":
                again = attempt < spec.attempts
                so_far.failures.append(_failure(at - worker.told, len(batch), again=again))
                so_far.failed += [(item, again) for item in items]
            else:
                so_far.done += items
            so_far.seconds += seconds
            self._step(worker, grant, work, at + len(batch), so_far)
            return None

        if outcome != "hang":
            self.hub.at(seconds, done)

    def _tell(self, worker: FakeWorker, grant: Grant, at: int, so_far: _Answered, *, more: bool = False) -> None:
        ack = Ack(grant.lease, at - worker.told, tuple(so_far.failures), more)
        given = [pair for item in so_far.done for pair in self.come(worker, item)]
        answer = Reply((ack,), self.outputs(worker, given), so_far.seconds)

        def say() -> Any:
            if not worker.alive:
                return None
            if not more:
                worker.busy = worker.suspect = False
                worker.lease = 0
                self._go_on(worker)
            return self._say(worker, answer, so_far.done, so_far.failed)

        self.hub.at(0, say)

    def _go_on(self, worker: FakeWorker) -> None:
        if worker.waiting:
            self._begin(worker)
        elif worker.stop:
            self._finish(worker)

    # -- many at a time ------------------------------------------------------------------------

    def _launch(self, worker: FakeWorker) -> None:
        flying = self.flying[_who(worker)]
        while worker.waiting and len(flying) < worker.spec.concurrency:
            grant = worker.waiting.pop(0)
            work = list(self._flat(worker.spec.task, grant))
            assert len(work) <= (worker.spec.batch or 1), "one item for each lease, or one batch"
            flying.append((grant, work))
            worker.busy = True
            worker.suspect = worker.suspect or any(part.crashes for part, _ in work)
            outcome = self._outcome_of(worker, work)
            self.lanes.begin(worker, grant, 0, [item for _, item in work])
            seconds = sum(self.script.seconds(worker.spec.task, item) for _, item in work)
            self.hub.at(seconds, lambda each=flying[-1], outcome=outcome: self._land(worker, each, outcome))

    def _outcome_of(self, worker: FakeWorker, work: list[tuple[GrantedRange, Item]]) -> str:
        """What becomes of an item, or a batch of them; one that hangs is ended by its own loop."""
        attempt = work[0][0].attempt
        found = [self.script.outcome(worker.spec.task, item, attempt, part.crashes) for part, item in work]
        return min(("fail" if each == "hang" else each for each in found), key=("kill", "fail", "ok").index)

    def _land(self, worker: FakeWorker, each: tuple[Any, Any], outcome: str) -> Any:
        flying = self.flying[_who(worker)]
        if not worker.alive or not any(other is each for other in flying):  # it has landed with another one
            return None
        if outcome == "kill":
            return self._die(worker)
        landed = [each]
        if not worker.spec.ordered and self.random.random() < 0.5:  # some that land in the same turn
            landed += [other for other in flying if other is not each and self._lands_well(worker, other)][:3]
        acks, done, failed = [], [], []
        for grant, work in landed:
            failures: tuple[Failure, ...] = ()
            items = [item for _, item in work]
            self.lanes.end(worker, grant, ())
            if outcome == "fail" and grant is each[0]:
                again = work[0][0].attempt < worker.spec.attempts
                failures = (_failure(0, len(work), again=again),)
                failed += [(item, again) for item in items]
            else:
                done += items
            acks.append(Ack(grant.lease, len(work), failures))
        flying[:] = [other for other in flying if not any(other is one for one in landed)]
        worker.busy = bool(flying)
        worker.suspect = any(part.crashes for _, work in flying for part, _ in work)
        given = [pair for item in done for pair in self.come(worker, item)]
        answer = Reply(tuple(acks), self.outputs(worker, given), 0.001)
        self._launch(worker)
        if not flying and worker.stop:
            self._finish(worker)
        return self._say(worker, answer, done, failed)

    def _lands_well(self, worker: FakeWorker, each: tuple[Any, Any]) -> bool:
        return self._outcome_of(worker, each[1]) == "ok"

    def _lose(self, number: int) -> None:
        for worker in self.on_machine(number):
            self.flying.pop(_who(worker), None)
            self.lanes.die(worker)
        super()._lose(number)

    def kill(self, slot: int) -> bool:
        self.hushed.add(_who(self.workers[slot]))
        return super().kill(slot)

    def _die(self, worker: FakeWorker) -> Any:
        died = super()._die(worker)
        self.flying.pop(_who(worker), None)
        return died


@dataclass
class _Answered:
    """What one answer will say."""

    done: list[Item] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    failed: list[tuple[Item, bool]] = field(default_factory=list)
    seconds: float = 0.0


def _failure(index: int, count: int, *, again: bool) -> Failure:
    error = ErrorText("ValueError", "scripted", "", ("ValueError",))
    return Failure(index, count, error, "", "retry" if again else "error")


# -- topologies --------------------------------------------------------------------------------


def topology(seed: int) -> Plan:  # noqa: C901  a generator in one piece
    """Layers of tasks of every kind; their queues shared and copied, large and small, with loops and dead letters."""
    draw = random.Random(f"topology {seed}")
    queues: dict[str, QueueConfig] = {}
    tasks: list[Any] = []
    current: list[str] = []

    def queue(name: str, **options: Any) -> str:
        size = draw.choice([1, 2, 10, 1000])
        queues[name] = QueueConfig(name, size=size, elastic=size == 1000 and draw.random() < 0.5, **options)
        return name

    def add(name: str, inputs: tuple[str, ...], ports: tuple[OutputPort, ...], **options: Any) -> None:
        count = draw.choice([1, 1, 2, 3])
        names = tuple(name if count == 1 else f"{name}-{at + 1}" for at in range(count))
        made = task(name, inputs, (), backoff=Backoff(draw.choice([0.0, 0.01, 1.0]), 2, 2.0, 0.1), **options)
        tasks.append(_with(made, ports=ports, workers=names))

    for index in range(draw.randint(1, 2)):
        current.append(queue(f"q0{index}"))
        add(f"source{index}", (), (OutputPort("default", (current[-1],)),))
    letters = draw.random() < 0.4
    for layer in range(1, draw.randint(1, 3) + 1):
        following = [queue(f"q{layer}{index}") for index in range(draw.randint(1, 2))]
        if layer == 3 or draw.random() < 0.3:
            following = []
        unread, unwritten = list(current), list(following)
        for index in range(max(len(current), len(following), draw.randint(1, 3))):
            name = f"t{layer}{index}"
            inputs = [unread.pop() if unread else draw.choice(current)]
            if draw.random() < 0.25:
                inputs = list(dict.fromkeys([*inputs, *current]))
            ports: list[OutputPort] = []
            if following:
                outputs = [unwritten.pop() if unwritten else draw.choice(following)]
                if draw.random() < 0.2:
                    outputs = list(dict.fromkeys([*outputs, *following]))
                ports.append(OutputPort("default", tuple(outputs)))
                if others := [name_ for name_ in following if name_ not in outputs and draw.random() < 0.3]:
                    ports.append(OutputPort("other", (others[0],)))
            if draw.random() < 0.12:
                inputs.append(queue(f"loop{name}", loop=True))
                ports.append(OutputPort("round", (f"loop{name}",)))
            add(name, tuple(inputs), tuple(ports), **_options(draw, letters=letters))
        if not following:
            break
        current = following
    else:
        add("last", tuple(current), (), **_options(draw, letters=letters))
    _read_all(draw, tasks, queues, add)
    if script(seed).hangs:
        tasks = [_with(each, timeout=20.0) if each.inputs else each for each in tasks]  # no batch takes so long
    return _planned(tasks, queues)


def _read_all(draw: random.Random, tasks: list[Any], queues: dict[str, QueueConfig], add: Any) -> None:
    """Whatever is written is read; dead letters too."""
    if any(each.dead for each in tasks):
        queues["letters"] = QueueConfig("letters", size=draw.choice([1, 5, 1000]))
        add("bury", ("letters",), (), **_options(draw, letters=False))
    written = {name for each in tasks for port in each.ports for name in port.queues}
    read = {name for each in tasks for name in each.inputs}
    for name in sorted(written - read):
        add(f"end{name}", (name,), (), **_options(draw, letters=False))
    readers = Counter(name for each in tasks for name in each.inputs)
    for name in list(queues):
        if name not in written | read:
            del queues[name]
        elif readers[name] > 1:
            queues[name] = _with(queues[name], fanout=draw.choice(["share", "share", "copy"]))


def _options(draw: random.Random, *, letters: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"restarts": Restarts(10_000, 60.0)}
    if draw.random() < 0.45:
        options["ordered"] = True
    form = draw.choice(["plain", "plain", "batch", "async"])
    if form == "batch":
        options["batch"] = Batch(draw.choice([1, 3, 10, 64]), wait=draw.choice([None, 0.05]))
    if form == "async":
        options["concurrency"] = draw.choice([1, 2, 10])
        batches = random.Random(repr(draw.getstate()))  # beside the draws that the seeds stand for
        if batches.random() < 0.4:
            options["batch"] = Batch(batches.choice([1, 3, 10]), wait=batches.choice([None, 0.05]))
    if draw.random() < 0.6:
        options["attempts"] = draw.choice([2, 3, 5])
    options["on_error"] = draw.choice(["dead", "dead", "skip"])
    if letters and options["on_error"] == "dead" and draw.random() < 0.6:
        options["dead"] = "letters"
    if draw.random() < 0.15:
        options["lifespan"] = Lifespan(items=draw.choice([3, 20]))
    if draw.random() < 0.05:
        options["rate"] = Rate(draw.choice([50, 10_000]), 1.0)
    return options


def _with(made: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(made, **changes)


def with_drops_and_orders(made: Plan, seed: int) -> Plan:
    """The same topology, some of whose queues drop items, or hand them out in another order."""
    draw = random.Random(f"drops {seed}")
    tasks = [each.config for each in made.tasks.values()]
    letters = {each.dead for each in tasks}
    queues = {}
    for name, queue in made.queues.items():
        is_ordered = any(each.ordered for each in tasks if name in each.inputs)
        orders = ["fifo"] if is_ordered else ["fifo", "lifo"] if name in letters else ["fifo", "lifo", "priority"]
        full = "wait" if name in letters or queue.loop else draw.choice(["wait", "drop-new", "drop-old"])
        elastic = queue.elastic and full == "wait"
        queues[name] = _with(queue, full=full, order=draw.choice(orders), elastic=elastic)
    ranked: Plan = _with(made, queues=queues)
    return ranked


def with_lanes(made: Plan, seed: int) -> Plan:
    """The same topology, most of whose queues have lanes, and whose tasks keep no other order."""
    draw = random.Random(f"lanes {seed}")
    letters = {each.config.dead for each in made.tasks.values()}
    share = 0.5 if any(queue.is_ranked or queue.drops for queue in made.queues.values()) else 0.8
    queues = {
        name: _with(queue, lane="customer", order="fifo", full="wait")
        if name not in letters and draw.random() < share
        else queue
        for name, queue in made.queues.items()
    }
    tasks = {
        name: _with(each, config=_with(each.config, ordered=False))
        if any(queues[queue].lane for queue in each.config.inputs)
        else each
        for name, each in made.tasks.items()
    }
    laned: Plan = _with(made, queues=queues, tasks=tasks)
    return laned


def _planned(tasks: list[Any], queues: dict[str, QueueConfig]) -> Plan:
    made = plan(tasks, list(queues.values()))
    shapes = {each.name: Shape("async" if each.concurrency != 100 else "function") for each in tasks}
    for name, each in made.tasks.items():
        made.tasks[name] = _with(each, reference=Reference("x", name), shape=shapes[name])  # type: ignore[index]
    return made


def script(seed: int) -> Script:
    """What befalls the items."""
    draw = random.Random(f"script {seed}")
    hangs = draw.choice([0, 0, 0, 0.01])
    return Script(
        seed,
        cost=draw.choice([0.00001, 0.002, 0.1]),
        skew=0 if hangs else draw.choice([0, 0, 0.01]),
        spread=draw.choice([1, 1, 2]),
        fails=draw.choice([0, 0.05, 0.2]),
        kills=draw.choice([0, 0, 0.03]),
        poison=draw.choice([0, 0, 0.01]),
        random_deaths=draw.choice([0, 0, 0.2]),
        hangs=hangs,
        pause=draw.choice([0, 0, 100.0]),
    )


# -- a run, and the oracle ---------------------------------------------------------------------


def run(  # noqa: C901  an oracle in one piece
    made: Plan,
    play: Script,
    items: int,
    watch: Callable[[Supervisor], None] | None = None,
    *,
    durable: bool = False,
    interval: float = 1.0,
    signals: Iterable[tuple[float, int]] = (),
    life: Life | None = None,
) -> tuple[Any, CrossedFleet, Supervisor]:
    """Run a plan to its end; `watch` looks at the supervisor whenever it waits.

    `interval`: the least time between two changes of a number of workers. `signals` are times and numbers. `life`: one
    of several of a durable run.
    """
    hub = FakeReactor(FakeClock())
    fleet = CrossedFleet(hub, play, items, made)
    seen: list[Any] = []
    keeper = VirtualKeeper(hub, VirtualDisk(), play.seed, slowness=0.02) if durable else None
    restored: dict[str, Any] = {}
    if life is not None:
        keeper = life.begin(hub, fleet)
        restored = {"image": life.disk.image, "lease_page": life.page}
    for when, number in signals:
        hub.at(when, lambda number=number: SignalReceived(number))
    ranges = RangeOracle(made, fleet, interval)

    def hear(event: Any) -> None:
        seen.append(event)
        ranges.hear(event)

    engines: Any = {"process": fleet, "thread": fleet}
    supervisor = Supervisor(made, engines, hub, fleet.hub.clock, hear, keeper=keeper, **restored)
    put, pass_item, book = supervisor.ledger.put, supervisor.ledger.pass_item, fleet.book
    decide = supervisor.retry_policy.decide_verdict

    def decided(slot: Any, piece: Any, failure: Any, *, worker_died: bool = False) -> Any:
        verdict = decide(slot, piece, failure, worker_died=worker_died)
        if worker_died:
            fleet.judged(slot.task.name, piece.item_id, again=isinstance(verdict, Again))
        return verdict

    supervisor.retry_policy.decide_verdict = decided  # type: ignore[method-assign]

    def watched(queue: str, chunks: Any, sender: str | None = None) -> None:
        chunks = list(chunks)
        for chunk in chunks:
            payload = chunk.payload
            found = (
                [("letter", *payload.payload[payload.index])]
                if isinstance(payload, DeadLetterPayload)
                else list(payload)
            )
            book.put[queue] += found
            fleet.lanes.put(queue, found)
            book.by_sender[sender or "", queue] += found
        put(queue, chunks, sender)

    def passed(line: Any, payload: Any, size: int, sender: str, task_: str, worker: int) -> Any:
        book.put[line.queue] += payload
        fleet.lanes.put(line.queue, payload)
        book.by_sender[sender, line.queue] += payload
        return pass_item(line, payload, size, sender, task_, worker)

    grant = supervisor.ledger.grant_lease

    def granted(task_: str, *args: Any, **options: Any) -> Any:
        lease = grant(task_, *args, **options)
        for line, piece in lease.item_ranges if lease is not None else ():
            order = made.queues[line.queue].order
            for other in line.ready_ranges if order != "fifo" else ():
                is_behind = other.ticket > piece.ticket if order == "lifo" else other.chunk.rank < piece.chunk.rank
                assert not is_behind, f"{task_} was granted {piece}, and {other} waits"
        return lease

    supervisor.ledger.grant_lease = granted  # type: ignore[method-assign, assignment]
    supervisor.ledger.put = watched  # type: ignore[method-assign]
    supervisor.ledger.pass_item = passed  # type: ignore[method-assign, assignment]
    fleet.lanes.supervisor, fleet.lanes.seed = supervisor, play.seed

    def look() -> None:
        ranges.look(supervisor)
        if watch is not None:
            watch(supervisor)
        if life is not None:
            life.crash_when_due(hub)

    hub.check = look
    result = supervisor.run()
    fleet.changes = ranges.changes
    check_end(result, seen[-1])
    return result, fleet, supervisor


def check_ranges(seed: int, *, durable: bool = False, ranked: bool = False, laned: bool = False) -> Counter[str]:
    """Check a schedule in which tasks have ranges of workers, and any number of these at any time."""
    interval = random.Random(f"interval {seed}").choice([0.01, 0.05, 0.5])
    with pytest.MonkeyPatch.context() as patch:
        decide_by_chance(patch, seed, interval)
        return check(seed, durable=durable, ranked=ranked, laned=laned, interval=interval)


def check(
    seed: int,
    *,
    durable: bool = False,
    ranked: bool = False,
    laned: bool = False,
    interval: float | None = None,
) -> Counter[str]:
    """One seed is one schedule; nothing may be lost, doubled, out of order or left in it.

    Return how many items were `dropped`, how many of queues with lanes were `begun`, and the `changes` of numbers of
    workers. `ranked`: some queues drop items, and some have another order. `laned`: most have lanes. With an
    `interval`, numbers of workers change, at most once in it.
    """
    items = random.Random(f"items {seed}").choice([1, 5, 20, 100])
    made = with_drops_and_orders(topology(seed), seed) if ranked else topology(seed)
    made = with_lanes(made, seed) if laned else made
    made = made if interval is None else with_ranges(made, seed)
    watch = lanes_hold if laned else None
    result, fleet, _ = run(made, script(seed), items, watch, durable=durable, interval=interval or 1.0)
    dropped = judge_whole(made, result, fleet, seed)
    return Counter(dropped=dropped, changes=fleet.changes, begun=fleet.lanes.begun)


def judge_whole(made: Plan, result: Any, fleet: CrossedFleet, seed: int) -> int:
    """Nothing is lost, doubled, out of order or left in a run that has come to its end; return what was dropped."""
    book = fleet.book
    dead = sum(len(found) for name, found in book.failed.items() if made.tasks[name].config.on_error == "dead")
    assert all(each.how == "ok" for each in result.tasks.values()), f"seed {seed}: {result}"
    assert result.exit_code == (4 if dead else 0), f"seed {seed}: {result}"
    assert all(tally.left == 0 for tally in result.lines.values()), f"seed {seed}: {result.lines}"
    for name in made.queues:
        assert Counter(book.sent[name]) == Counter(book.put[name]), f"seed {seed}, `{name}`: {_odds(book, name)}"
    dropped = everything_ends_once(made, fleet, result.lines, seed)
    everything_is_in_order(made, book, seed)
    return dropped


def judge_cut(made: Plan, result: Any, fleet: CrossedFleet, seed: int, *, durable: bool = False) -> int:
    """Nothing is lost, doubled or out of order in a run that was cut short, and all that is left is counted.

    In a `durable` one what an ordered task had done, and what was before it had not, is not done when the task ends.
    """
    book = fleet.book
    assert result.exit_code in {0, 1, 4, 130}, f"seed {seed}: {result}"
    for name in made.queues:
        assert Counter(book.put[name]) <= Counter(book.sent[name]), f"seed {seed}, `{name}`: {_odds(book, name)}"
    unheard = {
        name
        for name, each in result.tasks.items()
        if each.how == "failed" or (durable and made.tasks[name].config.ordered)
    }
    dropped = everything_ends_once(made, fleet, result.lines, seed, unheard)
    everything_is_in_order(made, book, seed, is_cut=True)
    return dropped


def _competes(made: Plan, each: Any) -> bool:
    """Return True if another task takes items from a queue that this one reads."""
    return any(
        made.queues[queue].fanout != "copy" and len(_readers_of(made, queue)) > 1 for queue in each.config.inputs
    )


def everything_is_in_order(made: Plan, book: Book, seed: int, *, is_cut: bool = False) -> None:
    """Ordered tasks send, and only workers end, in the order of what they read.

    In a run that is cut short, what a task that fails had comes to those that compete with it, late as it may be.
    """
    for each in made.tasks.values():
        if each.config.inputs and each.config.ordered and not (is_cut and _competes(made, each)):
            orders = {name: "lanes" if queue.lane else queue.order for name, queue in made.queues.items()}
            leaves_in_order(each, book, orders, seed)
        if each.config.inputs and not each.config.ordered:
            ends_in_order(made, each, book, seed)


def everything_ends_once(
    made: Plan, fleet: CrossedFleet, lines: Any, seed: int, unheard_tasks: Collection[str] = ()
) -> int:
    """What was put has ended in each group of readers, once, or was dropped unseen, or is left; return the dropped.

    What workers of `unheard_tasks` had ended when their task did, and was not said or had not left, goes to the task
    that shares the queue; its results leave once all the same.
    """
    book, total = fleet.book, 0
    groups: list[tuple[Counter[Item], set[str]]] = []
    for name, queue in made.queues.items():
        readers = {each.name for each in made.tasks.values() if name in each.config.inputs}
        for group in [{reader} for reader in readers] if queue.fanout == "copy" else [readers]:
            counts, members = Counter(book.put[name]), set(group)
            for other in [other for other in groups if other[1] & members]:  # a task may read several queues
                groups.remove(other)
                counts, members = counts + other[0], members | other[1]
            groups.append((counts, members))
    for counts, members in groups:
        # An item at which its task fails, or stops the run, is left; or it goes to another task of a shared queue.
        ending = {name for name in members if made.tasks[name].config.on_error in {"fail", "stop"}}
        failed = [item for name in members - ending for item in book.failed[name]]
        ended = Counter([*(item for name in members for item in book.done[name]), *failed])
        unsettled = sum(len(book.failed[name]) for name in ending)
        odd = [*(counts - ended).items()][:3], [*(ended - counts).items()][:3]
        sharing = members & set(unheard_tasks) if len(members) > 1 else set()
        unheard = Counter(item for name in sharing for item in book.done[name])
        assert ended - counts <= unheard, f"seed {seed}, {sorted(members)}: unexpected {odd[1]}"
        for item in ended - counts:
            sent = {name for name in members if _has_sent(made.tasks[name], book, item)}
            assert len(sent) <= counts[item], f"seed {seed}: results of {item} were sent by {sorted(sent)}"
        missing = counts - ended
        tallies = [tally for name, tally in lines.items() if members.intersection(_readers_of(made, name))]
        left = sum(tally.left for tally in tallies)
        skipped = sum(len(book.failed[name]) for name in members if made.tasks[name].config.on_error == "skip")
        dropped = sum(tally.dropped for tally in tallies) - skipped
        text = f"seed {seed}, {sorted(members)}: {odd[0]}, {dropped} and {left}"
        if left or unsettled:  # what a worker has ended while its task, or the run, was being stopped may be left, too
            assert missing.total() <= dropped + left + unsettled, text
            continue
        assert missing.total() == dropped, text
        seen = {item for name in members for item in fleet.given[name]}
        twice = {item for item, times in counts.items() if times > 1}  # of these nobody knows which was given
        assert not seen & (missing.keys() - twice), f"seed {seed}: dropped after it was given to a worker"
        dropping = any(queue.drops for name, queue in made.queues.items() if members & _readers_of(made, name))
        assert dropping or not dropped, f"seed {seed}, {sorted(members)}: {dropped} were dropped"
        total += missing.total()
    return total


def _has_sent(task: Any, book: Book, item: Item) -> bool:
    """Return True if a result of an item has left the task."""
    outputs = [queue for port in task.config.ports for queue in port.queues]
    return any(each[:-1] == item for queue in outputs for each in book.by_sender[task.name, queue])


def _readers_of(made: Plan, line: str) -> set[str]:
    queue, _, reader = line.partition("->")
    return {reader} if reader else {name for name, each in made.tasks.items() if queue in each.config.inputs}


def _odds(book: Book, name: str) -> str:
    sent, put = Counter(book.sent[name]), Counter(book.put[name])
    return f"sent and not put {[*(sent - put)][:3]}, put and not sent {[*(put - sent)][:3]}"


def leaves_in_order(each: Any, book: Book, orders: dict[str, str], seed: int) -> None:
    """An ordered task's results have the order of its inputs, queue by queue."""
    times = Counter(item for queue in each.config.inputs for item in book.put[queue])
    for queue in each.config.inputs:
        # Of an item that came twice nobody knows from where a result is.
        places = {item: at for at, item in enumerate(book.put[queue]) if times[item] == 1}
        for output in dict.fromkeys(each.config.outputs):
            if orders[output] == "priority":  # what leaves together is parted by its priorities
                continue
            sent = [item for item in book.by_sender[each.name, output] if item[:-1] in places]
            for lane in range(LANES) if orders[output] == "lanes" else (None,):  # or by its lanes
                left = [places[item[:-1]] for item in sent if lane in (None, lane_of(item))]
                assert left == sorted(left), f"seed {seed}: {each.name} sent {left} into `{output}`"


def ends_in_order(made: Plan, each: Any, book: Book, seed: int) -> None:
    """An only worker that nobody competes with ends item after item; what is tried again comes when its time has come."""
    (queue, *others), config = each.config.inputs, each.config
    readers = [other for other in made.tasks.values() if queue in other.config.inputs]
    competes = len(readers) > 1 and made.queues[queue].fanout != "copy"
    if others or competes or each.is_async or len(config.workers) > 1:
        return
    if made.queues[queue].is_ranked or made.queues[queue].lane:
        return
    places = {item: at for at, item in enumerate(book.put[queue])}
    if len(places) == len(book.put[queue]):
        ended = [places[item] for item in book.done[each.name] if item not in book.again[each.name]]
        assert ended == sorted(ended), f"seed {seed}: {each.name} ended {ended}"


__all__ = ["CrossedFleet", "WorkerExited", "check", "run", "script", "topology"]
