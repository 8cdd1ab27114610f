"""Where each worker's time goes, on a clock of the test's own: exact, whatever the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_engine import Script, plan, simulate, task

from runner.events import STATES, TaskSummary
from runner.model import QueueConfig, Rate
from runner.supervisor import outcome
from runner.supervisor.time_accounting import (
    ENDED,
    EXECUTING,
    ITEM,
    ROOM,
    STARTING,
    TURN,
    WAITING_FOR_REASON,
    TimeAccount,
    WaitReason,
)
from runner.tasks import Shape
from runner.transport.messages import MeasuredTimes

COST = 0.010


def ended(tasks: list[Any], queues: list[QueueConfig], items: int = 400, **script: Any) -> dict[str, TaskSummary]:
    *_, seen = simulate(plan(tasks, queues), Script(1, cost=COST, **script), items)
    return {each.name: each for each in seen[-1].tasks}


def share(of: TaskSummary, state: str) -> float:
    """The share of the workers' time between ready and ended."""
    spent = {name: sum(getattr(worker.spent, name) for worker in of.workers) for name in STATES}
    return spent[state] / sum(spent[name] for name in ("item", "executing", "encoding", "room", "turn"))


def test_a_task_that_everybody_waits_for_is_busy() -> None:
    """A source's item costs a tenth of a transform's: the source waits for room, the last task for items."""
    middle = task("middle", ("a",), ("b",), count=2)
    found = ended(
        [task("source", (), ("a",)), middle, task("sink", ("b",), count=8)],
        [QueueConfig("a", size=10), QueueConfig("b", size=10)],
    )
    assert share(found["middle"], "executing") > 0.97
    assert found["middle"].busy > 0.97
    assert share(found["source"], "room") > 0.6
    assert share(found["sink"], "item") > 0.7


def test_behind_a_slow_source_all_wait_for_items() -> None:
    found = ended([task("source", (), ("a",)), task("sink", ("a",), count=40)], [QueueConfig("a", size=10)])
    assert share(found["source"], "executing") > 0.9
    assert share(found["sink"], "item") > 0.7
    assert share(found["sink"], "room") == 0


def test_before_a_slow_sink_all_wait_for_room() -> None:
    found = ended(
        [task("source", (), ("a",)), task("middle", ("a",), ("b",), count=4), task("sink", ("b",))],
        [QueueConfig("a", size=10), QueueConfig("b", size=10)],
    )
    assert share(found["sink"], "executing") > 0.95
    assert share(found["middle"], "room") > 0.6
    assert share(found["source"], "room") > 0.8


def test_a_worker_of_an_async_task_does_not_wait_for_the_room_that_another_ones_item_takes() -> None:
    made = plan(
        [task("source", (), ("a",)), task("middle", ("a",), ("b",), count=40), task("sink", ("b",), count=40)],
        [QueueConfig("a", size=10), QueueConfig("b", size=1)],
    )
    made.tasks["middle"] = replace(made.tasks["middle"], shape=Shape("async"))
    *_, seen = simulate(made, Script(1, cost=COST), 400)
    found = {each.name: each for each in seen[-1].tasks}
    assert share(found["middle"], "item") > 0.3
    assert share(found["middle"], "room") < 0.05


def test_a_rate_makes_workers_wait_for_their_turn() -> None:
    slow = task("slow", ("a",), rate=Rate(20, 1.0))
    found = ended([task("source", (), ("a",)), slow], [QueueConfig("a", size=10)], items=100)
    assert share(found["slow"], "turn") > 0.7
    assert share(found["slow"], "executing") == pytest.approx(20 * COST, rel=0.3)


def test_a_source_with_a_rate_waits_for_its_turn() -> None:
    found = ended(
        [task("source", (), ("a",), rate=Rate(20, 1.0)), task("sink", ("a",))], [QueueConfig("a", size=10)], items=100
    )
    assert share(found["source"], "turn") > 0.8
    assert share(found["source"], "room") < 0.1


def test_a_task_after_another_waits_for_its_turn_until_it_is_started() -> None:
    found = ended(
        [
            task("first", (), ("a",)),
            task("one", ("a",)),
            task("then", (), ("b",), after={"one": "ok"}),
            task("two", ("b",)),
        ],
        [QueueConfig("a", size=10), QueueConfig("b", size=10)],
    )
    (worker,) = found["then"].workers
    assert worker.spent.turn == pytest.approx(found["one"].active, rel=0.05)
    assert found["then"].active < 1.2 * found["two"].active


def test_the_dead_are_replaced_and_their_place_goes_on() -> None:
    found = ended([task("source", (), ("a",)), task("work", ("a",))], [QueueConfig("a")], items=50, kills=0.2)
    (worker,) = found["work"].workers
    assert found["work"].repeated > 0
    assert worker.items == 50
    assert worker.spent.starting > 0.005


# -- one place ---------------------------------------------------------------------------------


def test_what_is_on_its_way_is_waited_for() -> None:
    hours = TimeAccount(WaitReason(), 0.0, 1.0)
    hours.enter_state(EXECUTING, 2.0)
    hours.add_work(5.0, busy=2.5, coding=0.5)
    spent = hours.spent_until(5.0)
    assert (spent.turn, spent.starting, spent.item, spent.executing, spent.encoding) == (1.0, 1.0, 0.5, 2.0, 0.5)


def test_a_worker_that_says_more_than_can_be_is_cut() -> None:
    hours = TimeAccount(WaitReason(), 0.0, 0.0)
    hours.enter_state(EXECUTING, 0.0)
    hours.add_work(1.0, busy=7.0, coding=9.0)
    assert (hours.spent_until(1.0).executing, hours.spent_until(1.0).encoding) == (0.0, 1.0)


def test_reasons_change_while_somebody_waits() -> None:
    waiting = WaitReason()
    hours = TimeAccount(waiting, 0.0, 0.0)
    waiting.set_reason(TURN, 1.0)
    hours.enter_state(WAITING_FOR_REASON, 2.0)
    waiting.set_reason(ROOM, 3.0)
    waiting.set_reason(ITEM, 7.0)
    hours.enter_state(ENDED, 8.0)
    waiting.set_reason(ROOM, 9.0)
    spent = hours.spent_until(10.0)
    assert (spent.starting, spent.turn, spent.room, spent.item, spent.ended) == (2.0, 1.0, 4.0, 1.0, 2.0)
    assert hours.state == ENDED
    assert STATES.index("starting") == STARTING


def test_what_workers_tell_adds_up() -> None:
    hours = TimeAccount(WaitReason(), 0.0, 0.0)
    assert hours.memory is None
    for told in (MeasuredTimes((), 0.5, 0), MeasuredTimes((), 0.25, 900), MeasuredTimes((), 0.25, 700)):
        hours.add_measured(told)
    assert (hours.cpu, hours.memory) == (1.0, 900)


def test_quantiles_of_what_was_measured_in_classes() -> None:
    times = dict.fromkeys(range(-40, 41), 10)
    assert outcome.time_quantile(times, 0.5) == pytest.approx(1.0, rel=0.1)
    assert outcome.time_quantile(times, 1.0) == pytest.approx(32.0, rel=0.1)
    assert outcome.time_quantile(times, 0.0) == pytest.approx(1 / 32, rel=0.1)


def test_time_on_the_way_that_was_taken_for_work_is_waiting_once_the_worker_has_said_so():
    """An item that is seconds on its way through a narrow network is looked at four times a second meanwhile."""
    hours = TimeAccount(WaitReason(), 0.0, 0.0)
    hours.enter_state(EXECUTING, 1.0)
    assert hours.spent_until(2.5).executing == 1.5
    hours.add_work(3.0, busy=0.25, coding=0.05)
    spent = hours.spent_until(3.0)
    assert (spent.starting, spent.item) == (1.0, 1.75)
    assert spent.executing == pytest.approx(0.2)
    assert spent.encoding == pytest.approx(0.05)
    assert hours.spent_until(4.0).executing == pytest.approx(1.2)
    hours.enter_state(ENDED, 4.0)
    assert hours.spent_until(5.0).executing == pytest.approx(1.2)
