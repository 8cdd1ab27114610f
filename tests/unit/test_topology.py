"""What may start, close and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.topology import Node, Stage, Topology, strongly_connected


def idle(task: str) -> bool:
    return False


def started(*nodes: Node) -> Topology:
    graph = Topology(nodes)
    for name in graph.startable():
        graph.started(name)
    return graph


def test_a_queue_closes_when_all_its_writers_are_over() -> None:
    graph = started(Node("a", (), ("q",)), Node("b", (), ("q",)), Node("sink", ("q",)))
    graph.over("a", Stage.OK)
    assert graph.exhausted(idle) == []
    graph.over("b", Stage.FAILED)
    assert graph.exhausted(lambda task: task == "sink") == []
    assert graph.exhausted(idle) == ["sink"]


def test_a_cycle_ends_together_once_it_is_fed_no_more_and_empty() -> None:
    graph = started(
        Node("seed", (), ("found",)), Node("fetch", ("found",), ("pages",)), Node("parse", ("pages",), ("found",))
    )
    assert graph.exhausted(idle) == []
    graph.over("seed", Stage.OK)
    assert graph.exhausted(lambda task: task == "parse") == []
    assert sorted(graph.exhausted(idle)) == ["fetch", "parse"]


def test_dead_letters_keep_their_queue_open() -> None:
    graph = started(Node("a", (), ("q",)), Node("work", ("q",), ("dead",)), Node("rejects", ("dead",)))
    graph.over("a", Stage.OK)
    assert graph.exhausted(idle) == ["work"]
    graph.over("work", Stage.OK)
    assert graph.exhausted(idle) == ["rejects"]


@pytest.mark.parametrize(
    ("wanted", "stage", "starts", "never"),
    [
        ("ok", Stage.OK, True, False),
        ("ok", Stage.FAILED, False, True),
        ("ok", Stage.SKIPPED, False, True),
        ("ended", Stage.FAILED, True, False),
        ("ended", Stage.SKIPPED, True, False),
        ("started", Stage.FAILED, True, False),
        ("started", Stage.SKIPPED, False, True),
    ],
)
def test_after(wanted: str, stage: Stage, *, starts: bool, never: bool) -> None:
    graph = Topology([Node("first"), Node("second", after={"first": wanted})])  # type: ignore[dict-item]
    assert graph.startable() == ["first"]
    graph.started("first")
    graph.over("first", stage)
    assert (graph.startable() == ["second"]) is starts
    assert (graph.unstartable() == ["second"]) is never


def test_after_started_needs_a_worker_that_is_ready() -> None:
    graph = Topology([Node("first"), Node("second", after={"first": "started"})])
    graph.started("first")
    assert graph.startable() == []
    graph.is_ready("first")
    assert graph.startable() == ["second"]


def test_a_writer_without_readers_left_works_in_vain() -> None:
    graph = started(Node("a", (), ("q", "r")), Node("x", ("q",)), Node("y", ("r",)))
    graph.over("x", Stage.FAILED)
    assert graph.in_vain() == []
    graph.over("y", Stage.FAILED)
    assert graph.in_vain() == ["a"]


def test_depth_counts_from_the_sources() -> None:
    graph = Topology([Node("sink", ("r",)), Node("mid", ("q",), ("r",)), Node("top", (), ("q",))])
    assert graph.depth() == {"top": 0, "mid": 1, "sink": 2}


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=4), min_size=8, max_size=8))
def test_components_are_exactly_the_mutually_reachable(edges: dict[int, list[int]]) -> None:
    graph = {str(node): [str(other) for other in edges.get(node, [])] for node in range(8)}
    reach = {name: {name} for name in graph}
    for _ in graph:
        for name in graph:
            for other in graph[name]:
                reach[name] |= reach[other]
    components = strongly_connected(graph)
    assert sorted(name for component in components for name in component) == sorted(graph)
    for at, component in enumerate(components):
        for name in component:
            assert {other for other in reach[name] if name in reach[other]} == set(component)
        later = {name for each in components[at + 1 :] for name in each}
        assert not any(reach[name] & later for name in component), "a component comes after all it leads to"
