"""A source whose worker dies is called again and goes on where it was: in every form, wherever, however often.

The oracle is what an undisturbed run would have given; none of runner's own counters is asked.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from faults import sources
from faults.harness import plan, run, task
from faults.sinks import collector

from runner import events
from runner.model import OutputPort, QueueConfig, Restarts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("fork_server")

FORMS: dict[str, Any] = {
    "numbers": (sources.numbers, 20_000, int, range(20_000)),
    "dicts": (sources.dicts, 3000, lambda item: item["number"], range(3000)),
    "mixed": (sources.mixed, 3000, str, [*map(str, range(3000))]),
    "arrays": (sources.arrays, 40, lambda item: int(item[0]), range(40)),
    "outbox": (sources.outbox, 3000, int, range(3000)),
    "outbox and generator": (sources.outbox_and_generator, 3001, int, range(3001)),
    "async": (sources.async_numbers, 1000, int, range(1000)),
    "class": (sources.Numbers, 3000, int, range(3000)),
    "place": (sources.from_a_place, 3000, int, range(3000)),
    "outbox, place": (sources.outbox_from_a_place, 3000, int, range(3000)),
}


class Keys(list[Any]):
    """What arrives, by what tells items apart."""

    def __init__(self, key: Callable[[Any], Any]) -> None:
        self.key = key

    def append(self, item: Any) -> None:
        super().append(self.key(item))


def outcome_of(
    function: Any, args: tuple[Any, ...], size: int = 1000, key: Callable[[Any], Any] = int, **options: Any
) -> Any:
    collected = Keys(key)
    made = plan(
        [task("source", function, outputs="a", args=args, **options), collector(collected, "a")],
        {"a": QueueConfig("a", size=size)},
    )
    return run(made, collected)


def deaths_among(count: int, seed: str) -> tuple[int, ...]:
    """Three places at which a worker dies: sometimes the first item, sometimes the last."""
    draw = random.Random(seed)
    return tuple({draw.choice([0, 1, count - 1, draw.randrange(count)]) for _ in range(3)})


@pytest.mark.parametrize("size", [3, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_it_goes_on_where_it_was(form: str, size: int, tmp_path: Path) -> None:
    function, count, key, expected = FORMS[form]
    count, expected = (min(count, 300), list(expected)[:300]) if size == 3 else (count, list(expected))
    deaths = deaths_among(count, f"{form} {size}")
    outcome = outcome_of(function, (count, tmp_path, deaths), size, key)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(outcome.collected) == sorted(expected)
    died = outcome.of(events.WorkerDied)
    assert len(died) == len(list(tmp_path.glob("died-*"))) == len(deaths)
    assert all(event.will_restart for event in died)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_wherever_it_dies(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    function, count, key, expected = FORMS[draw.choice(list(FORMS))]
    size = draw.choice([1, 50, 1000, 100_000])
    if size == 1:  # each item is a message of its own: 20,000 of them take half a minute on a busy machine
        count, expected = min(count, 2000), list(expected)[:2000]
    deaths = deaths_among(count, f"deaths {seed}")
    outcome = outcome_of(function, (count, tmp_path, deaths), size, key)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(outcome.collected) == sorted(expected)
    assert len(outcome.of(events.WorkerDied)) == len(deaths)


def test_each_of_several_workers_goes_on_by_itself(tmp_path: Path) -> None:
    outcome = outcome_of(sources.own_numbers, (500, tmp_path, (3, 499)), key=str, workers=3)
    assert outcome.result.exit_code == 0
    names = [f"source-{at}" for at in (1, 2, 3)]
    assert sorted(outcome.collected) == sorted(f"{name} {number}" for name in names for number in range(500))
    assert len(outcome.of(events.WorkerDied)) == 6


def test_items_of_all_ports_are_passed_over(tmp_path: Path) -> None:
    even: list[Any] = []
    odd: list[Any] = []
    made = task("source", sources.two_ports, args=(1000, tmp_path, (0, 501, 998)))
    made = replace(
        made, config=replace(made.config, ports=(OutputPort("default", ("a",)), OutputPort("odd", ("b", "c"))))
    )
    third: list[Any] = []
    outcome = run(plan([made, collector(even, "a"), collector(odd, "b", "odd"), collector(third, "c", "third")]))
    assert outcome.result.exit_code == 0
    assert sorted(even) == list(range(0, 1000, 2))
    assert sorted(odd) == sorted(third) == list(range(1, 1000, 2))


def test_a_place_of_its_own_is_where_it_begins(tmp_path: Path) -> None:
    outcome = outcome_of(sources.from_a_place, (3000, tmp_path, (1500, 2900)), size=10)
    assert outcome.result.exit_code == 0
    assert sorted(outcome.collected) == list(range(3000))
    begun = [int(line) for line in (tmp_path / "begun").read_text().splitlines()]
    assert begun[0] == 0
    assert begun == sorted(begun)
    assert len(begun) == 3


def test_other_items_than_before_end_it_and_nothing_new_goes_in(tmp_path: Path) -> None:
    outcome = outcome_of(sources.other_each_time, (3000, tmp_path, (2000,)), size=100)
    assert outcome.result.exit_code == 1
    why = outcome.result.tasks["source"].why
    assert "OtherItems: item 1 is not the one that it gave before its worker died" in why
    assert "`context.save`" in why
    assert len({item >> 20 for item in outcome.collected}) == 1, "all items are of the first life"
    assert [item & 0xFFFFF for item in outcome.collected] == list(range(len(outcome.collected)))


def test_fewer_items_than_before_end_it(tmp_path: Path) -> None:
    outcome = outcome_of(sources.fewer_each_time, (3000, tmp_path, (2999,)), size=10)
    assert outcome.result.exit_code == 1
    given = len(outcome.collected)
    assert outcome.collected == list(range(given))
    assert f"it gave {given:,} items before its worker died, and only 750 now" in outcome.result.tasks["source"].why


def test_an_error_of_its_second_life_is_its_own(tmp_path: Path) -> None:
    outcome = outcome_of(sources.unpicklable_now, (3000, tmp_path, (2999,)), size=10)
    assert outcome.result.exit_code == 1
    assert "ValueError: the second time is different" in outcome.result.tasks["source"].why
    assert outcome.collected == list(range(len(outcome.collected)))


def test_an_item_at_which_it_always_dies_ends_it_after_three_workers_that_came_no_farther() -> None:
    outcome = outcome_of(sources.deadly, (3000, 1500), size=10)
    assert outcome.result.exit_code == 1
    assert "that call has now killed 3 workers" in outcome.result.tasks["source"].why
    assert outcome.collected == list(range(len(outcome.collected)))
    assert len(outcome.collected) <= 1500


def test_deaths_that_are_no_items_fault_are_limited_by_restarts(tmp_path: Path) -> None:
    outcome = outcome_of(
        sources.numbers, (3000, tmp_path, tuple(range(300, 3000, 300))), size=10, restarts=Restarts(2, 60.0)
    )
    assert outcome.result.exit_code == 1
    assert "more than 2 such deaths" in outcome.result.tasks["source"].why
    assert outcome.collected == list(range(len(outcome.collected)))


def test_a_task_without_queues_goes_on_from_its_place(tmp_path: Path) -> None:
    made = plan([task("work", sources.no_items, args=(50, tmp_path, (10, 40)))])
    outcome = run(made)
    assert outcome.result.exit_code == 0
    assert outcome.result.tasks["work"].results == {"work": "10"}, "the last life had ten steps left"


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_another_attempt_goes_on_from_the_place_that_was_kept(mode: str, tmp_path: Path) -> None:
    outcome = outcome_of(sources.raises_once, (100, tmp_path, 60), mode=mode, attempts=2)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(outcome.collected) == list(range(100))


def test_without_a_place_a_source_that_raises_is_not_called_again(tmp_path: Path) -> None:
    outcome = outcome_of(sources.raises_once, (100, tmp_path, 60), with_={"saves": False}, attempts=2)
    assert outcome.result.exit_code == 1
    assert outcome.collected == list(range(60)), outcome.result
