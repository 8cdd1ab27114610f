"""Durable runs on virtual time: crashes of the supervisor at random steps, and the lives that follow.

The workers write down what they are granted and what they execute, over all lives.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fake_engine import FakeClock, FakeEngine, FakeReactor, Script, check_end, plan, random_plan, task
from lane_watch import LANES, LaneWatch, lane_of, lanes_hold
from ranges import decide_by_chance, with_ranges
from virtual_disk import VirtualDisk, VirtualKeeper, indices

from runner.engines.engine_events import SignalReceived
from runner.ledger.balance import TaskTally
from runner.ledger.leases import Again
from runner.ledger.restore import MAX_CRASHES, mark_executed
from runner.model import Backoff, QueueConfig, Restarts
from runner.supervisor.loop import Supervisor
from runner.tasks import Shape
from runner.transport.messages import Grant, Stop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.ledger.leases import Lease
    from runner.supervisor.plan import Plan

#: A supervisor has so many lives at most; in the last one nothing kills it. Where items end it, each of them does so
#: three times.
LIVES, MORE_LIVES = 5, 400
LETTERS = "letters"
#: The run that is being simulated, for planted bugs.
CURRENT: list[Lives] = []


class SupervisorCrash(Exception):
    """The supervisor is gone, with all that is not on disk."""


class VirtualLeasePage:
    """What each open lease holds, and whether that counts in the next life."""

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}
        self.counts = True

    def note_lease(self, lease: Lease, slot: int, *, all_at_once: bool) -> None:
        assert not all_at_once, "nothing here is executed side by side"
        self.leases[lease.id] = lease

    def forget_lease(self, lease: int) -> None:
        self.leases.pop(lease, None)

    def renounce(self) -> None:
        self.counts = False

    def executed(self, workers: Iterable[Any]) -> list[tuple[tuple[str, int], range]]:
        """What the workers show, if it counts."""
        shown = []
        for worker in workers if self.counts else ():
            lease = self.leases.get(worker.lease) if worker.alive else None
            if lease is not None:
                for line, piece in lease.locate_ranges(worker.index - lease.finished_items, 1):
                    shown.append(((line.name, piece.chunk.number), range(piece.start, piece.start + 1)))
        return shown


class DurableEngine(FakeEngine):
    """Fake workers that go on in the next life, and write down what they are granted."""

    def __init__(self, hub: FakeReactor, script: Script, source_items: int, lives: Lives, life: int) -> None:
        super().__init__(hub, script, source_items)
        self.random = random.Random(f"{script.seed} {life}")
        self.lives = lives
        self.supervisor: Supervisor
        self.received = lives.executed

    def send(self, slot: int, message: Any) -> None:
        if isinstance(message, Grant):
            spec = self.workers[slot].spec
            for grant in (message, *message.other_grants):
                for part in grant.parts:
                    self.lives.note_grant(spec, part)
                    self._check_isolated(part)
        elif message == Stop(inputs_ended=True) and not self.supervisor.state.stopping:
            self._check_tear_down(self.workers[slot].spec.task)
        super().send(slot, message)

    def _check_tear_down(self, name: str) -> None:
        """What a class has written is put in its place when it is torn down; all of it must be known in the next life."""
        if self.supervisor.tasks[name].plan.shape.kind == "class" and not self.supervisor.ledger.has_items(name):
            tally = self.supervisor.ledger.task_counts[name]
            kept = self.lives.disk.image.task_tallies.get(name, TaskTally())
            ended = (tally.done, tally.dead, tally.dropped)
            assert ended == (kept.done, kept.dead, kept.dropped), f"{name} is torn down, and its acks are not on disk"

    def _check_isolated(self, part: Any) -> None:
        """What everything has died over twice is executed by itself, or one of several could not be told."""
        if part.crashes >= MAX_CRASHES - 1 and self.supervisor.ledger.isolates:
            assert len(self.supervisor.ledger.leases) == 1, "something else is executed beside it"

    def end_everything(self, task: str, item: Any) -> None:
        self.lives.ends[task, item] += self.supervisor.shutdown.received_signal is None
        raise SupervisorCrash


class Lives:
    """One run over all its lives."""

    def __init__(self, made: Plan, script: Script, source_items: int, seed: int) -> None:
        self.script, self.source_items, self.seed = script, source_items, seed
        kinds = random.Random(f"kinds {seed}")
        tasks = {
            name: replace(each, shape=Shape(kinds.choice(["function", "class"]))) if each.config.inputs else each
            for name, each in made.tasks.items()
        }
        self.plan = replace(made, tasks=tasks)
        self.draw = random.Random(f"lives {seed}")
        self.slowness = self.draw.choice([0.0, 0.001, 0.05, 1.0])
        self.disk = VirtualDisk()
        self.executed: dict[str, list[Any]] = {}
        self.named: dict[str, Any] = {}
        self.crashes = self.cuts = self.drained = 0
        #: Some of its queues have lanes: how many items of these were executed; and what draws the workers of each life.
        self.laned_items = 0
        self.other_workers: random.Random | None = None
        #: How many of its lives only drain.
        self.drain_share = 0.0
        #: By task and item: how often it has ended everything.
        self.ends: Counter[Any] = Counter()
        #: For a planted bug: hands over what has changed in the middle of a step.
        self.hand_over: Any = None
        self.result: Any = None

    def note_grant(self, spec: Any, part: Any) -> None:
        assert part.chunk_number in self.disk.image.chunks, "granted, and not on disk"
        for index in range(part.start, part.start + part.count):
            item = part.payload[index]
            known = self.named.setdefault(f"{part.chunk_number}.{index}", item)
            assert known == item, f"{part.chunk_number}.{index} names {known} and {item}"
            if part.dead_letter is None:
                tries = [self.disk.tries(queue, spec.task, part.chunk_number, index) for queue in spec.inputs]
                assert part.attempt > max(attempts for attempts, _ in tries), "an attempt is lost"
                assert part.crashes >= max(crashes for _, crashes in tries), "a crash is lost"

    def live(self) -> None:
        """Live until the run has ended by itself."""
        deadly = self.script.fatal > 0
        for life in range(1, (MORE_LIVES if deadly else LIVES) + 1):
            last = deadly or life == LIVES
            crash_at = None if last or self.draw.random() < 0.2 else int(10 ** self.draw.uniform(0, 3))
            signals = [] if (last and not deadly) or self.draw.random() < 0.8 else self._signals()
            drains = not last and self.draw.random() < self.drain_share
            if self._live_once(life, crash_at, signals, drains=drains) and not drains:
                return
        raise AssertionError("it does not end in its last life")

    def _signals(self) -> list[tuple[float, int]]:
        when = 10 ** self.draw.uniform(-2, 0.5)
        return [(when, 2), (when + 0.01, 2)][: self.draw.choice([1, 2])]

    def _live_once(
        self, life: int, crash_at: int | None, signals: list[tuple[float, int]], *, drains: bool = False
    ) -> bool:
        """Whether the run has come to its end."""
        if self.other_workers is not None:
            self._change_workers(self.other_workers)
        clock = FakeClock()
        hub = FakeReactor(clock)
        engine = DurableEngine(hub, self.script, self.source_items, self, life)
        page: Any = VirtualLeasePage()
        keeper = VirtualKeeper(hub, self.disk, f"{self.seed} {life}", self.slowness)
        seen: list[Any] = []
        engines: Any = {"process": engine, "thread": engine}
        engine.supervisor = supervisor = Supervisor(
            replace(self.plan, drains=drains),
            engines,
            hub,
            clock,
            seen.append,
            keeper=keeper,
            image=self.disk.image,
            lease_page=page,
        )

        def check() -> None:
            for line in supervisor.ledger.subscriptions:
                tally = line.counts
                held = tally.done + tally.dead + tally.dropped + tally.left + line.count + line.leased_items
                assert tally.put == held, f"{line.name}: {tally} queued={line.count} leased={line.leased_items}"
                assert line.sleeping_items >= 0
            if crash_at is not None and hub.steps >= crash_at:
                raise SupervisorCrash

        hub.check = check
        if any(queue.lane for queue in self.plan.queues.values()):
            self._watch_lanes(engine)
        for when, number in signals:
            hub.at(when, lambda number=number: SignalReceived(number))
        self.hand_over = lambda: supervisor._hand_over(keeper)
        try:
            self.result = supervisor.run()
        except SupervisorCrash:
            self.crashes += 1
            keeper.crash()
            if self.script.fatal:
                assert page.counts == (supervisor.shutdown.received_signal is None), "who ends a run is known"
                group, _ = mark_executed(self.disk.image, page.executed(engine.workers.values()))
                self.disk.commit(group)
            return False
        check_end(self.result, seen[-1])
        self._check_disk(supervisor)
        self.cuts += self.result.exit_code >= 128
        if drains and self.result.exit_code < 128:
            self._check_drained(supervisor)
        return bool(self.result.exit_code < 128)

    def _change_workers(self, draw: random.Random) -> None:
        """Let other numbers of workers read the queues."""
        tasks = {}
        for name, each in self.plan.tasks.items():
            workers = tuple(f"{name}-{at}" for at in range(draw.choice([1, 2, 5, 16])))
            least = min(each.config.least_workers, len(workers) - 1)
            config = replace(each.config, workers=workers, least_workers=least) if each.config.inputs else each.config
            tasks[name] = replace(each, config=config)
        self.plan = replace(self.plan, tasks=tasks)

    def _watch_lanes(self, engine: DurableEngine) -> None:
        """Follow what this life executes of queues with lanes, from what the last one has left."""
        supervisor, lanes = engine.supervisor, LaneWatch(self.plan)
        engine.lanes, lanes.supervisor, lanes.seed = lanes, supervisor, self.seed
        lanes.restore(self.disk.image)
        put, decide, check = supervisor.ledger.put, supervisor.retry_policy.decide_verdict, engine.hub.check

        def watched(queue: str, chunks: Any, sender: str | None = None) -> None:
            chunks = list(chunks)
            for chunk in chunks:
                if self.plan.queues[queue].lane:
                    lanes.put(queue, chunk.payload)
            put(queue, chunks, sender)

        def decided(slot: Any, piece: Any, failure: Any, *, worker_died: bool = False) -> Any:
            verdict = decide(slot, piece, failure, worker_died=worker_died)
            if worker_died and not isinstance(verdict, Again):
                lanes.over(None, slot.task.name, [self.named[piece.item_id]] if piece.item_id in self.named else [])
            return verdict

        def check_all() -> None:
            check()
            lanes_hold(supervisor)
            self.laned_items, lanes.begun = self.laned_items + lanes.begun, 0

        engine.hub.check = check_all
        supervisor.ledger.put = watched  # type: ignore[method-assign]
        supervisor.retry_policy.decide_verdict = decided  # type: ignore[method-assign]

    def _check_drained(self, supervisor: Supervisor) -> None:
        """A life that started no source has nothing left but what these have."""
        self.drained += 1
        assert self.result.exit_code in {0, 4}
        assert not self.result.headline.left
        open_sources = {
            name for name, each in self.plan.tasks.items() if not each.config.inputs
        } - self.disk.image.ended_tasks
        assert set(self.result.ended.unfinished) == open_sources
        assert self.result.is_complete == (not open_sources)
        assert not any(supervisor.tasks[name].slots for name in open_sources)

    def _check_disk(self, supervisor: Supervisor) -> None:
        """What a life that has ended in an orderly way says is what is on disk."""
        image = self.disk.image
        owed: dict[str, int] = defaultdict(int)
        for (name, number), ranges in image.owed.items():
            owed[name] += len(indices(image.chunks[number], ranges))
        for line in supervisor.ledger.subscriptions:
            kept = image.line_counts.get(line.name)
            if kept is None:
                assert not line.counts.put
                continue
            shown = [getattr(line.counts, word) for word in ("put", "done", "dead", "dropped")]
            assert shown == [getattr(kept, word) for word in ("put", "done", "dead", "dropped")], line.name
            assert line.counts.left == owed[line.name], line.name
        for name, tally in image.task_tallies.items():
            ended = supervisor.ledger.task_counts[name]
            assert (ended.done, ended.dead, ended.dropped) == (tally.done, tally.dead, tally.dropped)
            taken, sent = supervisor.ledger.taken_items[name], supervisor.ledger.sent_items[name]
            assert (taken, sent) == (tally.taken, tally.sent), name
        assert image.count_done() == self.result.headline.done, "what is told of it in the next life"


# -- scenarios -----------------------------------------------------------------------------------


def scenario(seed: int, fatal: float = 0.0) -> Lives:
    """A random run: retries, deaths, hand-backs, orders, copies, dead letters; `fatal` items end everything."""
    draw = random.Random(f"durable {seed}")
    options: dict[str, Any] = {"restarts": Restarts(10_000, 1.0)}
    if draw.random() < 0.4:
        options["ordered"] = True
    options["attempts"] = draw.choice([1, 2, 5])
    made = random_plan(seed, **options)
    queues = {
        name: replace(queue, fanout="copy" if queue.fanout else None) for name, queue in made.queues.items()
    }  # who gets which item of a shared queue is a matter of chance
    tasks = [each.config for each in made.tasks.values()]
    if draw.random() < 0.5:
        mourned = [each.name for each in tasks if each.inputs and draw.random() < 0.6]
        if mourned:
            tasks = [replace(each, dead=LETTERS) if each.name in mourned else each for each in tasks]
            tasks.append(task("undertaker", (LETTERS,), backoff=Backoff(0.01, 2, 0.1, 0.1), **options))
            queues[LETTERS] = QueueConfig(LETTERS, size=draw.choice([1, 10, 1000]))
    script = Script(
        seed,
        cost=draw.choice([0.00001, 0.002, 0.1]),
        skew=draw.choice([0, 0, 0.01]),
        spread=draw.choice([1, 1, 3]),
        fails=draw.choice([0, 0.05, 0.2]),
        kills=draw.choice([0, 0, 0.03]),
        poison=draw.choice([0, 0, 0.01]),
        fatal=fatal,
        random_deaths=draw.choice([0, 0, 0.1]),
    )
    return Lives(plan(tasks, list(queues.values())), script, draw.choice([1, 5, 20, 60]), seed)


def ends_well(script: Script, config: Any, item: Any) -> bool:
    """Whether an item comes through a task, however often it is executed."""
    outcomes = [script.outcome(config.name, item, attempt, crashes=1) for attempt in range(1, config.attempts + 1)]
    first = next((each for each in outcomes if each != "fail"), "fail")
    return first == "ok"


def expected_items(lives: Lives) -> tuple[dict[str, Counter[Any]], dict[str, Counter[Any]]]:
    """What must be put into each subscription, and what must be done in each: item by item, without any engine."""
    put: dict[str, Counter[Any]] = defaultdict(Counter)
    done: dict[str, Counter[Any]] = defaultdict(Counter)
    tasks = [each.config for each in lives.plan.tasks.values()]
    work = [
        (queue, (name, index))
        for each in tasks
        if not each.inputs
        for name in each.workers
        for queue in each.outputs
        for index in range(lives.source_items)
    ]
    while work:
        queue, item = work.pop()
        for config in tasks:
            if queue not in config.inputs:
                continue
            line = f"{queue}->{config.name}" if lives.plan.queues[queue].fanout == "copy" else queue
            put[line][item] += 1
            if ends_well(lives.script, config, item):
                done[line][item] += 1
                children = lives.script.children(config.name, item)
                work += [(output, child) for output in config.outputs for child in children]
            elif config.dead:
                work.append((config.dead, item))
    return put, done


def check_ranges(seed: int, *, laned: bool = False) -> Lives:
    """One seed is one run with all its lives, whose tasks have ranges of workers: any number at any time."""
    with pytest.MonkeyPatch.context() as patch:
        decide_by_chance(patch, seed, random.Random(f"interval {seed}").choice([0.01, 0.1]))
        return check_lives(seed, laned=laned, has_ranges=True)


def with_lanes(lives: Lives) -> None:
    """Give lanes to most queues of a run; between two lives other numbers of workers read them."""
    draw, made = random.Random(f"lanes {lives.seed}"), lives.plan
    queues = {
        name: replace(queue, lane="customer" if name != LETTERS and draw.random() < 0.8 else "")
        for name, queue in made.queues.items()
    }
    tasks = {}
    for name, each in made.tasks.items():
        ordered = each.config.ordered and not any(queues[queue].lane for queue in each.config.inputs)
        tasks[name] = replace(each, config=replace(each.config, ordered=ordered))
    lives.plan = replace(made, queues=queues, tasks=tasks)
    lives.other_workers = random.Random(f"workers {lives.seed}")


def check_lives(
    seed: int, drain_share: float = 0.0, fatal: float = 0.0, *, laned: bool = False, has_ranges: bool = False
) -> Lives:
    """One seed is one run with all its lives."""
    lives = scenario(seed, fatal)
    if has_ranges:
        lives.plan = with_ranges(lives.plan, seed)
    lives.drain_share = drain_share
    if laned:
        with_lanes(lives)
    CURRENT[:] = [lives]
    lives.live()
    put, done = expected_items(lives)
    disk = lives.disk
    readers = {}
    for each in lives.plan.tasks.values():
        for queue in each.config.inputs:
            readers[f"{queue}->{each.name}" if lives.plan.queues[queue].fanout == "copy" else queue] = each.name
    assert lives.result.exit_code in {0, 4}, lives.result
    assert not lives.result.headline.left
    assert set(disk.put) == {line for line, items in put.items() if items}
    for line, items in put.items():
        reader = readers[line]
        assert Counter(disk.put[line]) == items, f"seed {seed}: put into {line}"
        assert disk.over[line] == items, f"seed {seed}: over in {line}"
        counts = disk.image.line_counts[line]
        assert (counts.done, counts.dead) == (done[line].total(), (items - done[line]).total()), f"seed {seed}: {line}"
        executed = Counter(lives.executed.get(reader, []))
        assert done[line] <= executed, f"seed {seed}: {reader} has not executed {done[line] - executed}"
    for each in lives.plan.tasks.values():
        if each.config.inputs and not each.config.dead:
            lines = [line for line, reader in readers.items() if reader == each.name]
            lost = sum(((put[line] - done[line]) for line in lines), Counter())
            assert disk.dead[each.name] == lost, f"seed {seed}: dead in {each.name}"
    check_orders(lives)
    for (name, item), times in lives.ends.items():
        came = sum(items[item] for line, items in put.items() if readers[line] == name)
        assert times <= MAX_CRASHES * came, f"seed {seed}: {item} has ended everything {times} times"
    dead = {each.chunk_number for each in disk.image.dead_items.values()}
    origins = {disk.image.chunks[number].origin for number in dead} - {0}
    assert disk.image.chunks.keys() == dead | origins, "what nothing refers to is removed"
    return lives


def check_orders(lives: Lives) -> None:
    """What an ordered task sends has the order of its input, over all lives."""
    for each in lives.plan.tasks.values():
        config = each.config
        if not config.ordered or len(config.inputs) != 1:
            continue
        (queue,) = config.inputs
        came = lives.disk.put[queue] or lives.disk.put[f"{queue}->{config.name}"]
        times = Counter(came)  # what has come by two ways cannot be told apart
        places = {item: place for place, item in enumerate(came) if times[item] == 1}
        for output in config.outputs:
            line = next((name for name in lives.disk.put if name.partition("->")[0] == output), "")
            sent = [item for item in lives.disk.put.get(line, []) if item[:-1] in places]
            writers = [other for other in lives.plan.tasks.values() if output in other.config.outputs]
            if len(writers) == 1:
                for lane in range(LANES) if lives.plan.queues[output].lane else (None,):
                    order = [places[item[:-1]] for item in sent if lane in (None, lane_of(item))]
                    assert order == sorted(order), f"seed {lives.seed}: {config.name} sent {order} into {output}"
