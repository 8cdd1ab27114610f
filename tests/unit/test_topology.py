"""What may start, close and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.topology import Stage, TaskNode, Topology, strongly_connected


def idle(task: str) -> bool:
    return False


def started(*nodes: TaskNode) -> Topology:
    graph = Topology(nodes)
    for name in graph.startable_tasks():
        graph.mark_started(name)
    return graph


def test_a_queue_closes_when_all_its_writers_are_over() -> None:
    graph = started(TaskNode("a", (), ("q",)), TaskNode("b", (), ("q",)), TaskNode("sink", ("q",)))
    graph.finish("a", Stage.OK)
    assert graph.exhausted_tasks(idle) == []
    graph.finish("b", Stage.FAILED)
    assert graph.exhausted_tasks(lambda task: task == "sink") == []
    assert graph.exhausted_tasks(idle) == ["sink"]


def test_a_cycle_ends_together_once_it_is_fed_no_more_and_empty() -> None:
    graph = started(
        TaskNode("seed", (), ("found",)),
        TaskNode("fetch", ("found",), ("pages",)),
        TaskNode("parse", ("pages",), ("found",)),
    )
    assert graph.exhausted_tasks(idle) == []
    graph.finish("seed", Stage.OK)
    assert graph.exhausted_tasks(lambda task: task == "parse") == []
    assert sorted(graph.exhausted_tasks(idle)) == ["fetch", "parse"]


def test_dead_letters_keep_their_queue_open() -> None:
    graph = started(TaskNode("a", (), ("q",)), TaskNode("work", ("q",), ("dead",)), TaskNode("rejects", ("dead",)))
    graph.finish("a", Stage.OK)
    assert graph.exhausted_tasks(idle) == ["work"]
    graph.finish("work", Stage.OK)
    assert graph.exhausted_tasks(idle) == ["rejects"]


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
    graph = Topology([TaskNode("first"), TaskNode("second", after={"first": wanted})])  # type: ignore[dict-item]
    assert graph.startable_tasks() == ["first"]
    graph.mark_started("first")
    graph.finish("first", stage)
    assert (graph.startable_tasks() == ["second"]) is starts
    assert (graph.unstartable_tasks() == ["second"]) is never


def test_after_started_needs_a_worker_that_is_ready() -> None:
    graph = Topology([TaskNode("first"), TaskNode("second", after={"first": "started"})])
    graph.mark_started("first")
    assert graph.startable_tasks() == []
    graph.ready_tasks.add("first")
    assert graph.startable_tasks() == ["second"]


def test_a_writer_without_readers_left_works_in_vain() -> None:
    graph = started(TaskNode("a", (), ("q", "r")), TaskNode("x", ("q",)), TaskNode("y", ("r",)))
    graph.finish("x", Stage.FAILED)
    assert graph.without_readers() == []
    graph.finish("y", Stage.FAILED)
    assert graph.without_readers() == ["a"]


def test_depth_counts_from_the_sources() -> None:
    graph = Topology([TaskNode("sink", ("r",)), TaskNode("mid", ("q",), ("r",)), TaskNode("top", (), ("q",))])
    assert graph.task_depths() == {"top": 0, "mid": 1, "sink": 2}


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
