"""Cycles of queues that nothing closes, and tasks that wait for each other for ever."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from runner.problems import Problem, quote_name
from runner.topology import strongly_connected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runner.check.graph import TaskGraph
    from runner.model import Config

Edges = dict[str, list[str]]

#: So many cycles are named; finding the next one means to look at the whole graph again.
_MOST = 10


def find_cycle_problems(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    """Yield both kinds, and `loop` queues that close nothing."""
    yield from _find_unclosed_cycles(config, graph)
    yield from _find_waiting_tasks(config, graph)
    yield from _find_idle_loops(config, graph)


def flow_edges(graph: TaskGraph) -> Edges:
    """Return the edges from tasks (`t...`) to the queues that they write (`q...`), and from queues to their readers."""
    edges: Edges = {
        f"t{task.name}": [f"q{queue}" for queue in graph.queues_written_by(task)] for task in graph.tasks.values()
    }
    return edges | {f"q{queue}": [f"t{reader}" for reader in readers] for queue, readers in graph.readers.items()}


def _find_unclosed_cycles(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    """Yield every cycle without a `loop` queue: each is named once, and taken as closed to find the next one."""
    edges = flow_edges(graph)
    for queue, settings in config.queues.items():
        if settings.loop or config.is_unknown("queues", queue, "loop"):
            edges.pop(f"q{queue}", None)
    for _ in range(_MOST):
        cycle = find_cycle(edges)
        if cycle is None:
            return
        closing = cycle[-1]
        text = f"a cycle without `loop`: {_shorten_path(' -> '.join(node[1:] for node in [*cycle, cycle[0]]))}"
        hint = "say `loop = true` for the queue that closes it"
        yield Problem("E207", text, config.place("queues", closing[1:]), hint=hint)
        del edges[closing]


def find_cycle(edges: Mapping[str, list[str]]) -> list[str] | None:
    """Return the shortest cycle through the first node that is on one; None if there is no cycle.

    >>> find_cycle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]})
    ['b', 'd']
    """
    known = {node: [target for target in targets if target in edges] for node, targets in edges.items()}
    inside = {node for part in strongly_connected(known) if len(part) > 1 for node in part}
    inside |= {node for node, targets in known.items() if node in targets}
    start = next((node for node in edges if node in inside), None)
    if start is None:
        return None
    came: dict[str, str] = {}
    level = [start]
    while True:  # `start` is on a cycle, so it is met again
        further: list[str] = []
        for node in level:
            for target in known[node]:
                if target == start:
                    return _path_back(came, start, node)
                if target not in came:
                    came[target] = node
                    further.append(target)
        level = further


def _path_back(came: dict[str, str], start: str, node: str) -> list[str]:
    way = [node]
    while way[-1] != start:
        way.append(came[way[-1]])
    return way[::-1]


def _shorten_path(way: str) -> str:
    return way if len(way) <= 300 else way[:140] + " ... " + way[-140:]


def _find_waiting_tasks(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    """Yield tasks that wait for each other: through `after`, or because the end of one needs the end of the other.

    Nodes are the start (`<a`) and the end (`>a`) of each task and the end of each queue (`=q`); an edge leads to what
    must have happened before.
    """
    edges: Edges = {f"={queue}": [f">{writer}" for writer in writers] for queue, writers in graph.writers.items()}
    starts = [f"<{task}" for task in graph.tasks]
    for task in graph.tasks.values():
        waits = [(other, state) for other, state in task.after.items() if other in graph.tasks]
        edges[f"<{task.name}"] = [("<" if state == "started" else ">") + other for other, state in waits]
        edges[f">{task.name}"] = [f"<{task.name}", *(f"={queue}" for queue in task.inputs if f"={queue}" in edges)]
    part_of = {node: part for part in strongly_connected(edges) for node in part}
    told: set[tuple[str, ...]] = set()
    for start in starts:
        part = part_of[start]
        members = set(part)
        if part in told or not members.intersection(edges[start]):
            continue  # nothing that it waits for waits for it
        told.add(part)
        cycle = find_cycle({node: edges[node] for node in dict.fromkeys((start, *part))})
        if cycle is not None:
            text = "tasks that wait for each other: " + _shorten_path(_describe_waits(cycle))
            yield Problem("E208", text, config.place("tasks", start[1:], "after"))


def _describe_waits(cycle: list[str]) -> str:
    parts = []
    for node, before in itertools.pairwise([*cycle, cycle[0]]):
        if node[0] == "<":
            parts.append(f"{node[1:]} after {before[1:]}")
        elif before[0] == "=":
            parts.append(f"{node[1:]} reads {before[1:]} of ")
        elif node[0] == "=":
            parts[-1] += before[1:]
    return ", ".join(parts)


def _find_idle_loops(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    if not (graph.all_writers and graph.all_readers):
        return
    on_cycle = {node for part in strongly_connected(flow_edges(graph)) if len(part) > 1 for node in part}
    for queue, settings in config.queues.items():
        if settings.loop and graph.readers[queue] and graph.writers[queue] and f"q{queue}" not in on_cycle:
            text = f"queue {quote_name(queue)} has `loop = true` but is not part of a cycle, so it is unbounded"
            yield Problem("W404", text, config.place("queues", queue, "loop"), "warning", "leave `loop` out")
