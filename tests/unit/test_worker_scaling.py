"""The number of workers: what is decided of loads that are computed, and of whole runs on a virtual clock."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import crossed
import durable_lives
import pytest
from fake_engine import simulate as simulate_plan
from fake_engine import task
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from ranges import RandomDecisions, with_ranges
from unit.test_simulation import scenario
from virtual_workers import Day, day

from runner import worker_scaling
from runner.model import Batch, QueueConfig
from runner.supervisor import autoscaler
from runner.worker_scaling import ItemTimes, LoadSample, WorkerScaler

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processors be those of the simulation: what this machine's do has nothing to do with it."""
    monkeypatch.setattr(autoscaler, "usable_cpus", lambda: 2)
    monkeypatch.setattr(autoscaler.ProcessorMeter, "idle_share", lambda _: None)


# -- decisions -----------------------------------------------------------------------------------


def times_of(cost: float, count: int, computing: float, spread: float = 0.0, seed: int = 0) -> ItemTimes:
    """Items that cost so much, more or less."""
    draw = random.Random(seed)
    found = [cost * draw.uniform(1 - spread, 1 + spread) for _ in range(count)]
    return ItemTimes(count, sum(found), sum(each**2 for each in found), computing * sum(found), sum(found))


def numbers(
    scaler: WorkerScaler, seconds: int, cost_of: Callable[[int], float], *, cores: float = inf, computing: float = 0.0
) -> list[int]:
    """Numbers of workers, second by second, under a load that never ends; `cost_of(number)` is what an item costs."""
    found = []
    for at in range(1, seconds + 1):
        number, cost = scaler.number, cost_of(scaler.number)
        items = max(1, int(number / cost))
        idle = inf if cores == inf else max(0.0, cores - number * computing)
        scaler.decide(LoadSample(float(at), times=times_of(cost, items, computing, 0.3, at), idle_cores=idle))
        found.append(scaler.number)
    return found


def test_items_that_sleep_have_the_most_within_five_seconds() -> None:
    assert numbers(WorkerScaler(1, 64), 8, lambda _: 0.05) == [2, 4, 8, 16, 32, 64, 64, 64]
    assert numbers(WorkerScaler(2, 16), 5, lambda _: 0.05)[-2:] == [16, 16]


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 8, 64])
def test_items_that_compute_have_the_cores_and_no_more(cores: int) -> None:
    found = numbers(WorkerScaler(1, 100), 20, lambda n: 0.05 * max(1.0, n / cores), cores=cores, computing=0.98)
    assert cores <= found[-1] == max(found) <= cores / 0.98


def test_items_that_compute_beside_other_programs_do_not_seem_to_sleep() -> None:
    assert numbers(WorkerScaler(1, 16), 30, lambda n: 0.3 * n, cores=0.0, computing=0.2)[-1] == 1


@pytest.mark.parametrize("capacity", [1, 4, 12])
def test_what_only_makes_items_slower_is_taken_back(capacity: int) -> None:
    """As threads that compute, or a server that has so much to give, and no more."""
    found = numbers(WorkerScaler(1, 64), 50, lambda n: 0.02 * max(1.0, n / capacity))
    assert capacity <= found[-1] <= 2 * capacity
    assert len(set(found[12:])) == 1, f"it is not asked for again: {found}"


def test_it_is_asked_again_after_a_minute_or_when_items_cost_something_else() -> None:
    scaler = WorkerScaler(1, 8)
    assert numbers(scaler, 30, lambda n: 0.02 * n)[-1] == 1
    assert scaler.decide(LoadSample(31.0, times=times_of(0.021, 50, 0.0))) is None
    assert scaler.decide(LoadSample(92.0, times=times_of(0.02, 50, 0.0))) is not None
    other = WorkerScaler(1, 8)
    assert numbers(other, 30, lambda n: 0.02 * n)[-1] == 1
    changed = [other.decide(LoadSample(30.0 + at, times=times_of(0.1, 50, 0.0))) for at in range(1, 8)]
    assert any(changed)


def seen_early(number: int, cost: float, computing: float = 0.0, **more: Any) -> LoadSample:
    """What was seen of saturated workers in the first quarter of a second."""
    count = int(number * 0.25 / cost)
    return LoadSample(0.25, times=times_of(cost, count, computing), **{"idle_cores": inf, "backlog": 1000, **more})


@pytest.mark.parametrize(
    ("least", "most", "backlog", "number"),
    [(2, 16, 1000, 10), (2, 16, 4000, 16), (1, 16, 4000, 8), (1, 64, 500, 5), (4, 1000, 10**6, 32), (2, 16, 3, 3)],
)
def test_the_first_step_is_early_and_has_what_the_queue_asks_for(
    least: int, most: int, backlog: int, number: int
) -> None:
    scaler = WorkerScaler(least, most)
    found = scaler.decide_early(seen_early(least, 0.01, backlog=backlog))
    assert found is not None
    assert (found.number, found.before) == (number, least)


@pytest.mark.parametrize(
    "load",
    [
        seen_early(2, 0.01, computing=0.98),  # what is idle is known only once the run has started
        seen_early(2, 0.01, computing=0.2),
        seen_early(2, 0.2),  # too few items to know what one costs
        seen_early(2, 0.01, free=0.2),
        seen_early(2, 0.01, hindered=0.2),
        seen_early(2, 0.01, has_backlog=False),
        seen_early(2, 0.01, unready=1),
    ],
)
def test_what_is_not_known_early_waits_for_a_whole_second(load: LoadSample) -> None:
    scaler = WorkerScaler(2, 16)
    assert scaler.decide_early(load) is None
    assert scaler == WorkerScaler(2, 16), "as if it had not been looked at"


@pytest.mark.parametrize("capacity", [1, 2, 4, 8])
def test_a_step_to_what_the_queue_asks_for_that_does_not_pay_is_followed_by_small_ones(capacity: int) -> None:
    scaler = WorkerScaler(1, 16)
    found = []
    for at in range(1, 50):
        number, cost = scaler.number, 0.02 * max(1.0, scaler.number / capacity)
        times = times_of(cost, int(number / cost), 0.0, 0.3, at)
        scaler.decide(LoadSample(float(at), times=times, idle_cores=inf, backlog=4000))
        found.append(scaler.number)
    assert found[0] == 8
    assert capacity <= found[-1] <= 2 * capacity, found
    assert len(set(found[15:])) == 1, f"it is not asked for again: {found}"


def test_items_that_compute_have_no_step_to_what_the_queue_asks_for() -> None:
    scaler = WorkerScaler(1, 16)
    loads = [LoadSample(float(at), times=times_of(0.01, 100, 0.98), idle_cores=3.0, backlog=4000) for at in (1, 2)]
    assert [scaler.decide(load) is not None for load in loads] == [True, True]
    assert scaler.number == 4


def test_a_free_worker_a_full_output_or_no_backlog_grow_nothing() -> None:
    for hindered in ({"free": 0.2}, {"hindered": 0.1}, {"has_backlog": False}, {"unready": 1}):
        scaler = WorkerScaler(1, 8)
        for at in range(1, 30):
            load = LoadSample(float(at), times=times_of(0.1, 10, 0.0), **hindered)  # type: ignore[arg-type]
            assert scaler.decide(load) is None, hindered


def test_a_quarter_that_waits_for_ten_seconds_goes_and_less_stays() -> None:
    scaler = WorkerScaler(2, 16, 16)
    found = [scaler.decide(LoadSample(float(at), free=0.5)) for at in range(1, 21)]
    assert [at for at, each in enumerate(found, 1) if each] == [10, 20]
    assert scaler.number == 4
    busy = WorkerScaler(2, 16, 16)
    for at in range(1, 60):  # now and then all of them have something to do
        assert busy.decide(LoadSample(float(at), free=0.0 if at % 9 == 0 else 0.9, has_backlog=False)) is None
    idle = WorkerScaler(2, 16, 16)
    assert [idle.decide(LoadSample(float(at), free=1.0)) for at in range(1, 11)][-1] is not None
    assert idle.number == 2


def test_items_of_minutes_grow_by_the_processors_that_are_idle() -> None:
    scaler = WorkerScaler(1, 16)
    for at in range(1, 60):
        scaler.decide(LoadSample(float(at), idle_cores=2.0))
    assert scaler.number == 16
    busy = WorkerScaler(1, 16)
    for at in range(1, 60):
        assert busy.decide(LoadSample(float(at), idle_cores=0.2)) is None


def test_workers_that_cannot_be_started_are_done_without_for_a_minute() -> None:
    scaler = WorkerScaler(1, 16)
    assert numbers(scaler, 4, lambda _: 0.05)[-1] == 16
    lost = scaler.lose(8, 4.0, "no memory")
    assert lost is not None
    assert (lost.number, lost.before) == (8, 16)
    assert [scaler.decide(LoadSample(4.0 + at, times=times_of(0.05, 200, 0.0))) for at in range(1, 55)] == [None] * 54


@given(
    st.integers(1, 8),
    st.integers(0, 40),
    st.lists(
        st.builds(
            LoadSample,
            at=st.just(0.0),
            free=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
            hindered=st.sampled_from([0.0, 0.0, 0.5]),
            has_backlog=st.booleans(),
            unready=st.sampled_from([0, 0, 1]),
            times=st.builds(
                ItemTimes, st.integers(0, 100), st.floats(0, 100), st.floats(0, 1e4), st.floats(0, 9), st.floats(0, 100)
            ),
            idle_cores=st.sampled_from([0.0, 0.5, 3.0, inf]),
            backlog=st.sampled_from([0, 1, 1000, 10**6]),
        ),
        max_size=80,
    ),
    st.integers(0, 3),
)
@examples(100, 400)
def test_whatever_is_seen_the_number_is_in_the_range_and_told(
    least: int, more: int, loads: list[LoadSample], early: int
) -> None:
    scaler = WorkerScaler(least, least + more)
    for at, load in enumerate(loads):
        is_early = at < early
        before = scaler.number
        decision = scaler.decide_early(load) if is_early else scaler.decide(load)
        assert least <= scaler.number <= least + more
        assert (decision is None) == (scaler.number == before)
        assert decision is None or (decision.before, decision.number) == (before, scaler.number)


@pytest.mark.parametrize("seconds", [0.0, 5e-324, 1e-200, 1e308])
def test_no_time_is_too_short_or_too_long(seconds: float) -> None:
    scaler = WorkerScaler(1, 9)
    times = ItemTimes(100, seconds, seconds, 0.0, 1.0)
    load = LoadSample(
        at=0.0, free=0.0, hindered=0.0, has_backlog=True, unready=0, times=times, idle_cores=inf, backlog=1000
    )
    for _ in range(20):
        scaler.decide(load)
    assert 1 <= scaler.number <= 9


# -- whole runs, on a clock on which only items take time ------------------------------------------


def ranged(least: int, most: int, **options: object) -> object:
    return replace(task("work", ("q",), count=most, **options), least_workers=least)


def burst(count: int, cost: float, workers: object, **more: object) -> Day:
    return day([task("source", (), ("q",)), workers], count, {"work": lambda _: cost}, **more)  # type: ignore[list-item, arg-type]


def test_a_burst_is_over_within_a_third_more_than_with_the_best_fixed_number() -> None:
    count, cost = 2400, 0.1
    best = burst(count, cost, task("work", ("q",), count=16)).makespan
    adapted = burst(count, cost, ranged(2, 16))
    assert [each.number for each in adapted.changes] == [16], "as many as the queue asks for"
    assert adapted.makespan <= 1.1 * best, (adapted.makespan, best)


def test_a_burst_of_some_seconds_is_over_within_a_third_more() -> None:
    count, cost = 4000, 0.01  # two and a half seconds of sixteen workers
    best = burst(count, cost, task("work", ("q",), count=16)).makespan
    adapted = burst(count, cost, ranged(2, 16))
    assert adapted.changes[0].at < 0.8, "before the first second is over"
    assert adapted.makespan <= 1.3 * best, (adapted.makespan, best, adapted.changes)


@pytest.mark.slow
@pytest.mark.parametrize("cost", [0.001, 0.02, 1.0, 4.0])
@pytest.mark.parametrize("least", [1, 4])
def test_a_burst_of_any_cost(cost: float, least: int) -> None:
    # Until items have ended, nothing is known of them: 30 for each worker.
    count = int(16 * max(15.0, 30 * cost) / cost)
    best = burst(count, cost, task("work", ("q",), count=16)).makespan
    adapted = burst(count, cost, ranged(least, 16))
    assert adapted.makespan <= 1.3 * best, (adapted.makespan, best, adapted.changes)


def test_items_that_compute_have_the_cores_in_a_whole_run() -> None:
    done = burst(300, 0.05, ranged(1, 16), cores=2)
    assert [each.number for each in done.changes] == [2]


def test_a_full_sink_grows_nothing() -> None:
    tasks = [
        task("source", (), ("q",)),
        replace(ranged(1, 16), ports=task("x", (), ("r",)).ports),
        task("sink", ("r",)),
    ]  # type: ignore[type-var]
    costs: dict[str, Callable[[int], float]] = {"work": lambda _: 0.01, "sink": lambda _: 0.05}
    done = day(tasks, 300, costs, queues={"r": QueueConfig("r", size=3)})  # type: ignore[arg-type]
    assert done.changes == []


def test_when_the_burst_is_over_they_go() -> None:
    moments = [0.0] * 1500 + [15.0 + at / 4 for at in range(100)]
    done = burst(1600, 0.1, ranged(1, 16), moments=moments.__getitem__)
    assert max(each.number for each in done.changes) == 16
    assert done.changes[-1].number == 1


def test_batches_that_wait_are_seen() -> None:
    done = burst(3000, 0.01, ranged(1, 4, batch=Batch(10)))
    assert done.changes[-1].number == 4


# -- the same, crossed with everything ---------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 7, 9, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 40))])
def test_any_number_at_any_time_loses_nothing(seed: int) -> None:
    crossed.check_ranges(seed, durable=seed % 3 == 0, ranked=seed % 4 == 0)


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_scaling, "INTERVAL", 0.02)


def check_cut(seed: int, machines: int = 0) -> int:
    """Signals come, machines are lost, while numbers change; return the changes."""
    made, script, items = scenario(seed)
    made = with_ranges(made, seed)
    draw, decisions = random.Random(f"cut {seed}"), RandomDecisions(seed)
    signals = [(10 ** draw.uniform(-2, 1), 2) for _ in range(draw.choice([0, 1, 1, 2]))]
    script = replace(script, machines=machines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerScaler, "decide", lambda self, load: decisions.decide(self, load))
        result, _, _, seen = simulate_plan(made, script, items, signals, interval=worker_scaling.INTERVAL)
    assert result.exit_code in {0, 1, 4, *({130} if signals else {})}, f"seed {seed}: {result}"
    return sum(type(event).__name__ == "WorkersChanged" for event in seen)


@pytest.mark.slow
@pytest.mark.usefixtures("_often")
def test_a_run_that_is_cut_short_while_it_grows() -> None:
    assert sum(map(check_cut, range(15))) > 50


@pytest.mark.slow
@pytest.mark.usefixtures("_often")
def test_machines_without_room_that_leave_and_are_lost() -> None:
    assert sum(check_cut(seed, machines=1 + seed % 3) for seed in range(15)) > 50


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))])
def test_a_durable_run_that_dies_while_numbers_change(seed: int) -> None:
    durable_lives.check_ranges(seed)


def test_ranges_lanes_and_drops_in_one_run() -> None:
    found = sum((check_everything(seed) for seed in range(8)), Counter())
    assert min(found["changes"], found["begun"], found["dropped"]) > 20, found


def check_everything(seed: int) -> Counter[str]:
    """One seed has ranges and lanes, and every second one queues that drop items, or have another order, as well."""
    return crossed.check_ranges(seed, durable=seed % 3 == 0, ranked=seed % 2 == 0, laned=True)


def test_lives_with_ranges_and_lanes() -> None:
    assert sum(durable_lives.check_ranges(seed, laned=True).laned_items for seed in range(4)) > 100
