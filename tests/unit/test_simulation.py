"""The real supervisor on the scripted engine: random topologies, costs, failures and deaths, on a virtual clock.

One seed is one schedule. Safety: the balance holds at every step, nothing arrives twice or unexpected. Liveness: it
ends. Replay a failing seed with `pytest tests/unit/test_simulation.py --seed N`.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import crossed
import fake_engine
import pytest
from fake_engine import FakeEngine, Script, random_plan, simulate

from runner import events
from runner.model import Batch, Halt, Lifespan, QueueConfig, Rate
from runner.supervisor.fast_path import FastPath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.ledger.subscriptions import ItemRange
    from runner.supervisor.loop import Supervisor

SEEDS = 400
#: Seeds that have found something once, in the engine or in this oracle.
CORPUS = [131]
CUT_SHORT = [3145, 4736]
#: Topologies in which all features cross. The first seeds found: an item that left its order for another task of a
#: shared queue, and what stayed behind it; two leases given back in the wrong order; a batch given to an async task.
CROSSED = [9, 18, 51, 317]


def scenario(seed: int) -> tuple[Any, Script, int]:
    draw = random.Random(seed)
    options: dict[str, Any] = {}
    if draw.random() < 0.3:
        options["ordered"] = True
    if draw.random() < 0.5:
        options["attempts"] = draw.choice([2, 5])
    hangs = draw.choice([0, 0, 0.02])
    if hangs or draw.random() < 0.1:
        options["timeout"] = 5.0  # longer than any item that does not hang
    if draw.random() < 0.2:
        options["lifespan"] = draw.choice([Lifespan(items=3), Lifespan(memory=150), Lifespan(items=20, memory=190)])
    if draw.random() < 0.1:
        options["rate"] = Rate(draw.choice([50, 10_000]), 1.0)
    script = Script(
        seed,
        cost=draw.choice([0.00001, 0.002, 0.002 if "timeout" in options else 0.1]),
        skew=draw.choice([0, 0, 0.01 if "timeout" not in options else 0]),
        spread=draw.choice([1, 1, 3]),
        fails=draw.choice([0, 0, 0.05]),
        kills=draw.choice([0, 0, 0.03]),
        poison=draw.choice([0, 0, 0.01]),
        random_deaths=draw.choice([0, 0, 0.2]),
        hangs=hangs,
        pause=random.Random(f"pause {seed}").choice([0, 0, 100.0]),
        source_deaths=random.Random(f"source deaths {seed}").choice([0, 0, 0.3, 0.9]),
    )
    return random_plan(seed, **options), script, draw.choice([0, 1, 5, 20])


def fate(script: Script, task: Any, item: tuple[Any, ...]) -> bool:
    """Whether an item comes through a task, whatever happens to workers on the way."""
    for attempt in range(1, task.attempts + 1):
        if script.outcome(task.name, item, attempt, crashes=1) == "ok":
            return True
        if script.outcome(task.name, item, attempt, crashes=1) == "kill":
            return False
    return False


def model(plan: Any, script: Script, source_items: int) -> dict[str, Counter[Any]]:  # noqa: C901  an oracle in one piece
    """What must have been executed to its end in each task, computed without any engine: item by item."""
    done: dict[str, Counter[Any]] = {}
    queues: dict[str, list[Any]] = {}
    for task in plan.tasks.values():
        if not task.config.inputs:
            for name in task.config.workers:
                for queue in task.config.outputs:
                    queues.setdefault(queue, []).extend((name, index) for index in range(source_items))
    for layer in range(1, 9):
        shared: dict[str, list[Any]] = {}
        for name, items in queues.items():
            shared[name] = items
        following: dict[str, list[Any]] = {}
        readers = [task for task in plan.tasks.values() if task.name.startswith(f"t{layer}_")]
        by_queue = Counter(queue for task in readers for queue in task.config.inputs)
        for task in readers:
            for queue in task.config.inputs:
                if by_queue[queue] > 1 and plan.queues[queue].fanout == "share":
                    continue  # who gets which item is a matter of chance; see `through`
                for item in shared.get(queue, []):
                    if fate(script, task.config, item):
                        done.setdefault(task.name, Counter())[item] += 1
                        for output in task.config.outputs:
                            following.setdefault(output, []).extend(script.children(task.name, item))
        queues = following
    return done


def deterministic(plan: Any) -> bool:
    """Whether no two tasks compete for a queue: then it is known beforehand who executes what."""
    readers = Counter(queue for task in plan.tasks.values() for queue in task.config.inputs)
    return all(count == 1 or plan.queues[queue].fanout == "copy" for queue, count in readers.items())


def check(seed: int, *, durable: bool = False, machines: int = 0) -> None:
    plan, script, items = scenario(seed)
    script = replace(script, machines=machines)
    result, fleet, _, _ = simulate(plan, script, items, durable=durable)
    faults = script.fails or script.poison or script.hangs
    if not faults and not script.random_deaths:
        assert result.exit_code == 0, result
    failed = any(task.how != "ok" for task in result.tasks.values())
    assert not failed or script.random_deaths, result
    if failed or not deterministic(plan):
        return
    expected = model(plan, script, items)
    for name, task in plan.tasks.items():
        if task.config.inputs:
            assert Counter(fleet.received.get(name, [])) == expected.get(name, Counter()), f"seed {seed}, task {name}"


# -- with the fast path and without it -----------------------------------------------------------------


counts_of = attrgetter("put", "done", "dead", "dropped", "left")


def piece_state(piece: ItemRange) -> tuple[Any, ...]:
    """Return a piece without its payload, and without its place in a chain that leads to all others."""
    marks = (piece.attempts, piece.crashes, piece.granted_alone, piece.order_entry is None, piece.ticket)
    return piece.item_id, piece.count, piece.size, marks


def ledger_state(supervisor: Supervisor) -> tuple[Any, ...]:
    """Return all that the ledger knows, and what is built on it: pieces, leases, counts, expectations, workers."""
    book, audit = supervisor.ledger, supervisor.state.audit
    lines = [
        (
            *(line.name, *counts_of(line.counts), line.count, line.size, line.held_bytes, line.leased_items),
            tuple(map(piece_state, line.ready_ranges)),
            sorted((until, piece_state(piece)) for until, _, _, piece, _ in line.sleeping_ranges),
        )
        for line in book.subscriptions
    ]
    leases = [
        (lease.id, lease.worker, lease.count, [piece_state(piece) for _, piece in lease.item_ranges])
        for lease in book.leases.values()
    ]
    counts = [dict(each) for each in (book.sent_items, book.source_items, book.taken_items, book.leased_items)]
    counts += [dict(each) for each in (supervisor.dispatcher.expected_items, audit.sent_by_queue, audit.ended_by_task)]
    workers = [
        (slot.phase, tuple(slot.leases), slot.items, slot.credit, slot.received_items, account.state, *account._totals)
        for slot in supervisor.state.slots
        for account in [slot.time_account]
    ]
    tasks = [
        (task.chunk_sizer.item_seconds, task.chunk_sizer.last_items, task.unhindered_items, task.wait_reason.current)
        for task in supervisor.tasks.values()
    ]
    ended = [(name, counts_of(each)) for name, each in book.task_counts.items()]
    return lines, leases, counts, workers, tasks, ended


def steps_of(simulated: Callable[[Callable[[Supervisor], None]], Any], *, forwards: bool) -> tuple[list[Any], int]:
    """Run a schedule; return the ledger's state after each step with all that was sent, and the forwarded items."""
    steps: list[Any] = []
    forwarded, forward = 0, FastPath.forward_item
    send = FakeEngine.send

    def forward_or_not(self: FastPath, event: Any) -> bool:
        nonlocal forwarded
        done = forwards and forward(self, event)
        forwarded += done
        return done

    def noted(self: FakeEngine, slot: int, message: Any) -> None:
        steps.append((slot, message))
        send(self, slot, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastPath, "forward_item", forward_or_not)
        patch.setattr(FakeEngine, "send", noted)
        simulated(lambda supervisor: steps.append((supervisor.clock.now(), ledger_state(supervisor))))
    return steps, forwarded


def same_with_fast_path(simulated: Callable[[Callable[[Supervisor], None]], Any], seed: int) -> int:
    """Compare a schedule with the fast path to the same without it, step by step; return the forwarded items."""
    (fast, forwarded), (general, none) = (steps_of(simulated, forwards=forwards) for forwards in (True, False))
    for at, (one, other) in enumerate(zip_longest(fast, general)):
        assert one == other, f"seed {seed}, step {at}"
    assert not none
    return forwarded


def check_fast_path(seed: int) -> int:
    """Compare one schedule of each kind; return the forwarded items."""
    plan, script, items = scenario(seed)
    made, play = crossed.topology(seed), crossed.script(seed)
    forwarded = same_with_fast_path(lambda watch: simulate(plan, script, items, watch=watch), seed)
    return forwarded + same_with_fast_path(lambda watch: crossed.run(made, play, 20, watch), seed)


def blocks(count: int, quick: int) -> list[Any]:
    """So many parts of the seeds, of which the first are quick."""
    return [pytest.param(block, marks=pytest.mark.slow if block >= quick else ()) for block in range(count)]


@pytest.mark.parametrize("block", blocks(8, quick=1))
def test_random_schedules_keep_every_promise(block: int) -> None:
    for seed in range(block * SEEDS // 8, (block + 1) * SEEDS // 8):
        check(seed)


def test_the_fast_path_does_what_the_general_path_does() -> None:
    assert sum(map(check_fast_path, (17,))) > 100


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_the_fast_path_does_what_the_general_path_does_in_many_schedules(block: int) -> None:
    for seed in (block + 9, block + 18, *range(block, SEEDS, 40)):
        check_fast_path(seed)


@pytest.mark.parametrize("seed", CORPUS)
def test_what_was_found_once(seed: int) -> None:
    check(seed)


def cut_short(seed: int, *, durable: bool = False, machines: int = 0) -> None:
    """Tasks fail, stop the run, and wait for each other, signals come: whatever is left over, the run ends by itself."""
    plan, script, _ = scenario(seed)
    draw = random.Random(-seed - 1)
    order = draw.sample(list(plan.tasks), len(plan.tasks))
    for at, name in enumerate(order):
        task = plan.tasks[name]
        on_error = draw.choice(["dead", "fail", "fail", "stop"]) if task.config.inputs else "fail"
        after = {
            other: draw.choice(["started", "ended", "ok"]) for other in order[:at] if draw.random() < 0.5 / len(order)
        }
        plan.tasks[name] = replace(task, config=replace(task.config, on_error=on_error, after=after))
    script = replace(script, fails=draw.choice([0, 0.01, 0.2]), machines=machines)
    signals = [(10 ** draw.uniform(-4, 0), draw.choice([2, 15])) for _ in range(draw.choice([0, 0, 1, 2]))]
    result, _, _, _ = simulate(plan, script, draw.choice([1, 20, 300]), signals, durable=durable)
    assert result.exit_code in {0, 1, 4, *({130, 143} if signals else {})}, f"seed {seed}: {result}"


@pytest.mark.parametrize("seed", CUT_SHORT)
def test_runs_cut_short_that_did_not_end_once(seed: int) -> None:
    cut_short(seed)


@pytest.mark.parametrize("block", blocks(16, quick=0))
def test_runs_that_are_cut_short_end_by_themselves(block: int) -> None:
    for seed in range(block * 25, (block + 1) * 25):
        cut_short(seed)


@pytest.mark.parametrize("block", blocks(16, quick=0))
def test_machines_that_join_late_leave_and_are_lost(block: int) -> None:
    for seed in range(block * 25, (block + 1) * 25):
        check(seed, machines=1 + seed % 3)
        cut_short(seed, machines=1 + seed % 3)


@pytest.mark.parametrize(
    "seed", [*CROSSED, *range(100, 104), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(104, 108))]
)
def test_all_features_crossed(seed: int) -> None:
    crossed.check(seed)


def test_a_batch_that_has_waited_long_enough_waits_for_its_worker_without_a_sound() -> None:
    tasks = [fake_engine.task("source", (), ("q",)), fake_engine.task("work", ("q",), batch=Batch(10, wait=0.05))]
    result, fleet, _, _ = simulate(fake_engine.plan(tasks, [QueueConfig("q")]), Script(1, cost=2.0), 12)
    assert result.headline.done == 12
    assert fleet.hub.steps < 100, "the loop turned and turned meanwhile"


# -- how a run is cut short, on the virtual clock ------------------------------------------------------


def cut(
    script: Script, signals: Iterable[tuple[float, int]] = (), items: int = 50, **settings: Any
) -> tuple[Any, list[Any], float]:
    """A source and a task, cut short: the result, what was said, and the second in which it ended."""
    tasks = [fake_engine.task("source", (), ("q",)), fake_engine.task("work", ("q",))]
    made = fake_engine.plan(tasks, [QueueConfig("q", size=100)], **settings)
    result, fleet, _, said = simulate(made, script, items, signals)
    return result, said, fleet.hub.clock.now() - said[0].at


def test_the_first_signal_drains_what_is_queued_and_the_source_makes_no_more() -> None:
    result, said, _ = cut(Script(1, cost=0.01), [(0.5, 2)], items=10**6)
    assert result.exit_code == 130
    assert result.headline.left == 0
    assert 0 < result.headline.read == result.headline.done < 10**5
    assert [event.why for event in said if isinstance(event, events.RunStopping)] == ["Ctrl-C"]


def test_the_second_signal_ends_at_once_and_counts_what_is_left() -> None:
    result, _, ended = cut(Script(1, hangs=1.0), [(0.5, 15), (1.0, 15)], grace=100.0)
    assert result.exit_code == 143
    assert 1.0 <= ended < 1.1
    assert result.headline.read == result.headline.left == 50


def test_the_grace_ends_what_does_not_drain() -> None:
    result, _, ended = cut(Script(1, hangs=1.0), [(0.5, 2)], grace=3.0)
    assert result.exit_code == 130
    assert 3.5 <= ended < 3.6
    assert result.headline.left == 50


@pytest.mark.parametrize("hangs", [pytest.param(0.0, id="drains"), pytest.param(1.0, id="hangs")])
def test_the_deadline_is_when_the_run_has_ended(hangs: float) -> None:
    result, _, ended = cut(Script(1, cost=0.01, hangs=hangs), items=10**6, deadline=20.0, grace=5.0)
    assert result.exit_code == 124
    assert 14.0 < ended <= 20.0
    assert (result.headline.left == 0) is (hangs == 0.0)


@pytest.mark.parametrize("halt", [Halt(count=1), Halt(count=4), Halt(share=0.2)], ids=["first", "4", "20%"])
def test_halt_leaves_the_rest(halt: Halt) -> None:
    result, _, _ = cut(Script(1, fails=0.5, cost=0.01), items=2000, halt=halt)
    assert result.exit_code == 5
    assert result.headline.left > 0
    assert (halt.count or 1) <= result.headline.dead < 40


def test_a_task_with_batches_that_starts_after_one_that_waits_for_it_is_skipped() -> None:
    """Its queue is full, and its first batch is not: the supervisor tried to give it that, again and again, for ever."""
    tasks = [
        fake_engine.task("source", (), ("q",)),
        fake_engine.task("first", ("q",)),
        fake_engine.task("second", ("q",), batch=Batch(10), after={"first": "ended"}),
    ]
    result, fleet, _, _ = simulate(fake_engine.plan(tasks, [QueueConfig("q", size=1, fanout="copy")]), Script(1), 12)
    assert result.tasks["second"].how == "skipped"
    assert result.tasks["first"].done == 12
    assert fleet.hub.steps < 1000
