"""Machines that join, leave with notice and die at random, under the real supervisor, on a virtual clock.

`virtual_nodes.simulate_nodes` checks that each item arrives once, that none is at two places at once, and the balance;
`bench/nodes.py` does the same with a thousand machines, and says what each kind of event costs.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_nodes import Weather, simulate_nodes

from runner.cluster.placement import MachineShares
from runner.engines.node_state import RemoteWorker
from runner.engines.places import WorkerPlaces
from runner.model import Resources

SMALL = Weather(nodes=8, places=3, items=2500, life=25.0, absence=5.0)


@pytest.mark.parametrize("seed", range(1))
def test_machines_that_come_and_go(seed: int) -> None:
    nodes, _, _ = simulate_nodes(SMALL, seed)
    assert nodes.happened["lost workers"] > 10
    assert nodes.happened["left"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 40))
def test_many_machines_that_come_and_go(seed: int) -> None:
    simulate_nodes(Weather(30, 4, items=6000, life=[10.0, 60.0][seed % 2], absence=[1.0, 20.0][seed % 3 % 2]), seed)


@pytest.mark.slow
def test_what_an_event_costs_does_not_grow_with_the_machines() -> None:
    """Ten times the workers: what they say may cost more, as their task has more of them, but not ten times as much."""
    costs = []
    for count in (20, 200):
        _, reactor, _ = simulate_nodes(Weather(count, 8, items=10_000, life=100.0, absence=10.0))
        costs.append({kind: reactor.seconds[kind] / reactor.counts[kind] for kind in ("Ready", "Reply", "Finished")})
    for kind, few in costs[0].items():
        assert costs[1][kind] < 5 * few, (kind, costs)


def fake_node(name: str, cpus: float, **more: Any) -> Any:
    facts: dict[str, Any] = {"slots": set(), "is_leaving": False, "refusals": 0, "avoided_until": 0.0, **more}
    return SimpleNamespace(name=name, workers_by_task=Counter(), shares=MachineShares(cpus, ("0", "1")), **facts)


def fake_worker(slot: int, task: str) -> Any:
    return RemoteWorker(SimpleNamespace(slot=slot, task=task, previews_suspects=False), 1)  # type: ignore[arg-type]


def places_of(*nodes: Any, **resources: Resources) -> WorkerPlaces:
    places = WorkerPlaces(resources)
    places.nodes.update({node.name: node for node in nodes})
    return places


def test_tasks_get_places_in_turn() -> None:
    places = places_of(fake_node("n1", 4), fake_node("n2", 2))
    for slot in range(20):
        places.add_waiting(fake_worker(slot, "first" if slot < 10 else "second"))
    placed = places.give_places()
    assert [each.spec.task for each in placed] == ["first", "second"] * 3
    assert [each.node.name for each in placed if each.node].count("n1") == 4
    assert len(places.waiting) == 14
    assert places.give_places() == []


def test_a_task_that_needs_what_no_machine_has_free_does_not_hold_up_others() -> None:
    places = places_of(fake_node("n1", 8), large=Resources(6), gpu=Resources(1, 2))
    for slot, task in enumerate(["large", "gpu", "large", "gpu", "small", "small", "small"]):
        places.add_waiting(fake_worker(slot, task))
    assert [(each.spec.slot, each.spec.task) for each in places.give_places()] == [
        *((0, "large"), (1, "gpu"), (4, "small")),
    ]
    assert sorted(places.waiting) == [2, 3, 5, 6]


def test_the_first_worker_of_a_task_has_its_place_on_a_machine_that_is_full() -> None:
    places = places_of(fake_node("n1", 1), fake_node("n2", 1))
    for slot, task in enumerate(["a", "a", "a", "b", "b"]):
        places.add_waiting(fake_worker(slot, task))
    assert [each.spec.slot for each in places.give_places()] == [0, 3]
    places.add_waiting(fake_worker(9, "late"))
    assert [each.spec.slot for each in places.give_places()] == [9]


def test_a_machine_that_is_avoided_is_the_last_resort() -> None:
    sick, well = fake_node("sick", 8), fake_node("well", 1)
    places = places_of(sick, well)
    assert [places.avoid_node(sick) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    for slot in range(3):
        places.add_waiting(fake_worker(slot, "task"))
    assert [each.node.name for each in places.give_places() if each.node] == ["well"]
    del places.nodes["well"]
    assert [each.node.name for each in places.give_places() if each.node] == ["sick", "sick"]
