"""Durable runs whose supervisor crashes at random steps, on virtual time: nothing is lost, and nothing counts twice.

One seed is one run with all its lives. At the end each item is over once, what was executed contains what had to be,
ordered results have left in order, and an id has never named two items. Replay a seed with
`python -c "import durable_lives; durable_lives.check_lives(SEED)"` in `tests/`.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import crossed
import durable_lives
import pytest
from fake_engine import FakeClock, FakeEngine, FakeReactor, Script, check_end, plan, task
from unit import test_simulation
from virtual_disk import VirtualDisk, VirtualKeeper

from runner import events
from runner.engines.engine_events import GroupKept
from runner.ledger.balance import ItemCounts, TaskTally
from runner.ledger.chunks import Chunk
from runner.ledger.journal import LedgerImage, SourcePlace
from runner.ledger.restore import drop_owed_items
from runner.ledger.subscriptions import queue_of_line
from runner.model import QueueConfig
from runner.supervisor.loop import Supervisor
from runner.supervisor.resume import find_graph_changes

if TYPE_CHECKING:
    from runner.supervisor.plan import Plan

SEEDS = 20
MORE_SEEDS = 160


@pytest.mark.parametrize("block", range(4))
def test_runs_that_crash_go_on_where_they_were(block: int) -> None:
    for seed in range(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        durable_lives.check_lives(seed)


@pytest.mark.slow
def test_lives_that_only_drain_lose_nothing() -> None:
    lives = [durable_lives.check_lives(seed, drain_share=0.5) for seed in range(500, 512)]
    assert sum(each.drained for each in lives) >= 10


def test_supervisors_do_crash_and_disks_do_commit() -> None:
    lives = [durable_lives.check_lives(seed) for seed in range(10)]
    assert sum(each.crashes for each in lives) >= 10
    assert all(each.disk.commits for each in lives)


def renamed(made: Plan, old: str, new: str) -> Plan:
    """A plan in which a queue has another name."""

    def other(name: str | None) -> str | None:
        return new if name == old else name

    tasks = [
        replace(
            each.config,
            inputs=tuple(map(other, each.config.inputs)),
            ports=tuple(replace(port, queues=tuple(map(other, port.queues))) for port in each.config.ports),
            dead=other(each.config.dead),
        )
        for each in made.tasks.values()
    ]
    return plan(tasks, [replace(queue, name=other(name)) for name, queue in made.queues.items()])


def check_lives_with_drops(seed: int) -> int:
    """Between its lives, some queues of a run are dropped, and some of these have another name then."""
    lives = durable_lives.scenario(seed)
    draw, image, dropped = random.Random(f"drops {seed}"), lives.disk.image, 0
    for life in range(1, durable_lives.LIVES + 1):
        image.letter_queues |= {each.config.dead for each in lives.plan.tasks.values() if each.config.dead}
        crash_at = None if life == durable_lives.LIVES else int(10 ** draw.uniform(0, 3))
        if lives._live_once(life, crash_at, []):
            break
        queues = {queue for queue in lives.plan.queues if draw.random() < 0.4}
        lines = {line for line in image.line_counts if queue_of_line(line) in queues}
        if (group := drop_owed_items(image, lines)) is not None:
            lives.disk.commit(group)
            dropped += 1
        for queue in queues:
            if draw.random() < 0.5:
                lives.plan = renamed(lives.plan, queue, f"{queue}_{life}")
        assert find_graph_changes(lives.plan, image) == []
    assert lives.result.exit_code in {0, 4}, lives.result
    assert not lives.result.headline.left
    for line, items in lives.disk.put.items():
        assert Counter(items) == lives.disk.over[line], f"seed {seed}: {line}"
    counts = [each for line, each in image.line_counts.items() if queue_of_line(line) not in image.letter_queues]
    assert lives.result.headline.dropped == sum(each.dropped for each in counts)
    assert lives.result.headline.dead == sum(each.dead for each in counts)
    return dropped


@pytest.mark.slow
def test_queues_that_are_dropped_between_two_lives_are_counted_and_may_be_gone() -> None:
    assert sum(map(check_lives_with_drops, range(15))) > 5


@pytest.mark.parametrize("block", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_items_that_end_everything_are_dead_after_the_third_time_and_no_others(block: int) -> None:
    lives = [durable_lives.check_lives(seed, fatal=0.02) for seed in range(block * 8, (block + 1) * 8)]
    assert sum(len(each.ends) for each in lives) >= 4


def test_what_has_ended_well_does_not_begin_again() -> None:
    """Two sources into a transform, of which one is over; and a sink of its own behind each."""
    tasks = [
        task("short", (), ("q",)),
        task("long", (), ("r",)),
        task("work", ("q",), ("w",)),
        task("slow", ("r",)),
        task("sink", ("w",)),
    ]
    made = plan(tasks, [QueueConfig(name) for name in "qrw"])
    image = LedgerImage()
    image.ended_tasks = {"short", "work", "sink"}
    started, ended = lives_on(made, image)
    assert started == {"long", "slow"}
    image.ended_tasks = {"long", "work", "sink"}  # to which something can come: its source has not ended
    started, ended = lives_on(made, image)
    assert started == {"short", "work", "slow", "sink"}
    assert ended == {"long", "short", "work", "slow", "sink"}


def lives_on(made: Plan, image: LedgerImage) -> tuple[set[str], set[str]]:
    """The tasks that are started when a run goes on from an image, and those that have ended on disk at its end."""
    hub, disk, seen = FakeReactor(FakeClock()), VirtualDisk(), []
    disk.image = image
    engine = FakeEngine(hub, Script(1), 5)
    keeper = VirtualKeeper(hub, disk, 1, 0.01)
    Supervisor(made, {"process": engine}, hub, hub.clock, seen.append, keeper=keeper, image=image).run()
    return {event.task for event in seen if isinstance(event, events.TaskStarted)}, disk.image.ended_tasks


@pytest.mark.parametrize(
    ("on_error", "dead", "code", "left"), [("dead", 1, 4, 0), ("skip", 0, 0, 0), ("fail", 1, 1, 4), ("stop", 1, 1, 4)]
)
def test_what_everything_died_over_three_times_is_judged_as_the_file_says(
    on_error: str, dead: int, code: int, left: int
) -> None:
    image = LedgerImage(last_chunk=7)
    image.chunks = {7: Chunk(7, [("source", at) for at in range(5)], 5, 50)}
    image.owed = {("q", 7): ((0, 2, 0, 0), (2, 1, 0, 3), (3, 1, 0, 2), (4, 1, 0, 0))}
    image.line_counts, image.sources = {"q": ItemCounts(put=5)}, {("source", "source"): SourcePlace(5)}
    image.task_tallies = {"source": TaskTally(sent=5, read=5)}
    hub, disk, seen = FakeReactor(FakeClock()), VirtualDisk(), []
    disk.image = image
    engine, keeper = FakeEngine(hub, Script(1), 5), VirtualKeeper(hub, disk, 1, 0.01)
    made = plan([task("source", (), ("q",)), task("work", ("q",), count=2, on_error=on_error)], [QueueConfig("q")])
    result = Supervisor(made, {"process": engine}, hub, hub.clock, seen.append, keeper=keeper, image=image).run()
    assert (result.exit_code, result.headline.dead, result.headline.left) == (code, dead, left)
    executed = sorted(item[1] for item in engine.received.get("work", []))
    assert executed == ([0, 1, 3, 4] if not left else [])
    (death,) = [event for event in seen if isinstance(event, events.WorkerDied)]
    assert (death.item, death.why, death.will_restart) == ("7.2", "died together with runner", not left)
    check_end(result, seen[-1])
    assert disk.image.line_counts["q"] == ItemCounts(
        5, 5 - dead - left - (on_error == "skip"), dead, on_error == "skip"
    )


class FailingKeeper(VirtualKeeper):
    """A disk that refuses some of the commits: for a while, for ever, or because of a fault of runner's own."""

    refusals = 0
    how = "full"

    def _commit(self) -> Any:
        if not self.refusals:
            self.trouble = ""
            return super()._commit()
        self.refusals -= 1
        self.trouble = "the ledger cannot be written"
        self.is_broken = self.how != "full"
        self.fault = ValueError("why") if self.how == "fault" else None
        if not self.is_broken:
            self.hub.at(1.0, self._commit)
        return GroupKept(0)


@pytest.mark.parametrize(("how", "code"), [("full", 0), ("broken", 1), ("fault", 70)])
def test_a_disk_that_refuses_is_waited_for_or_ends_the_run(how: str, code: int) -> None:
    tasks = [task("source", (), ("q",)), task("work", ("q",), ("r",)), task("sink", ("r",))]
    hub, disk, seen = FakeReactor(FakeClock()), VirtualDisk(), []
    engine = FakeEngine(hub, Script(1), 50)
    keeper = FailingKeeper(hub, disk, 1, 0.01)
    keeper.refusals, keeper.how = 5, how
    made = plan(tasks, [QueueConfig(name) for name in "qr"])
    result = Supervisor(made, {"process": engine}, hub, hub.clock, seen.append, keeper=keeper).run()
    assert result.exit_code == code
    told = [event.text for event in seen if isinstance(event, events.Notice)]
    assert told == ["the ledger cannot be written" + ("; trying again each second" if how == "full" else "")]
    assert hub.clock.now() > 5 if how == "full" else hub.clock.now() < 5
    if how == "full":
        assert disk.image.line_counts["r"].done == 50


@pytest.mark.parametrize("seed", range(8))
def test_what_holds_without_a_disk_holds_with_one(seed: int) -> None:
    test_simulation.check(seed, durable=True)
    test_simulation.cut_short(seed, durable=True)
    crossed.check(seed, durable=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(8))
def test_many_more_lives(block: int) -> None:
    for seed in range(1000 + block * MORE_SEEDS // 8, 1000 + (block + 1) * MORE_SEEDS // 8):
        durable_lives.check_lives(seed, drain_share=seed % 2 / 2)
        check_lives_with_drops(seed)
        if seed % 2:
            durable_lives.check_lives(seed, laned=True, fatal=0.02 if seed % 5 == 0 else 0.0)
