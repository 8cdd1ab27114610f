"""Places for the boxes of a graph: layers from top to bottom, few crossings, straight lines where they can be.

After Sugiyama, Tagawa and Toda (1981): break cycles, assign layers, put bends on long edges, order each layer by
barycentres, then move every box towards its neighbours. Units are whatever the caller measures boxes in.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec import Struct

from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SWEEPS = 12
#: A picture of more lines between layers helps nobody, and would take seconds.
MAX_SEGMENTS = 10_000


class DiagramTooLarge(Exception):
    """The graph is too large for a picture."""


class DiagramEdge(Struct, frozen=True):
    """From one box to another."""

    tail: str
    head: str
    style: str = "flow"


class EdgeSegment(Struct, frozen=True):
    """The part of an edge between two neighbouring layers, from the upper to the lower box or bend.

    `points_up`: the arrow does. `has_arrowhead`: an arrowhead belongs at the end of this step.
    """

    upper: str
    lower: str
    style: str
    points_up: bool
    has_arrowhead: bool
    edge: DiagramEdge


@dataclass(slots=True)
class DiagramLayout:
    """Layers of boxes and bends from left to right, the centre of each, and the steps between layers."""

    layers: list[list[str]] = field(default_factory=list)
    centres: dict[str, float] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)
    segments: list[EdgeSegment] = field(default_factory=list)
    bends: set[str] = field(default_factory=set)

    @property
    def width(self) -> float:
        """Return the distance from the left edge, which is 0, to the right one."""
        return max((self.centres[box] + self.widths[box] / 2 for layer in self.layers for box in layer), default=0)


def connected_components(
    names: Sequence[str], edges: Sequence[DiagramEdge]
) -> list[tuple[list[str], list[DiagramEdge]]]:
    """Return the parts of a graph that have nothing to do with each other, each in the order of `names`."""
    group = {name: name for name in names}

    def root(name: str) -> str:
        while group[name] != name:
            group[name] = group[group[name]]
            name = group[name]
        return name

    for edge in edges:
        group[root(edge.head)] = root(edge.tail)
    found: dict[str, tuple[list[str], list[DiagramEdge]]] = defaultdict(lambda: ([], []))
    for name in names:
        found[root(name)][0].append(name)
    for edge in edges:
        found[root(edge.tail)][1].append(edge)
    return list(found.values())


def arrange_component(
    widths: Mapping[str, float], edges: Iterable[DiagramEdge], gap: float, bend: float
) -> DiagramLayout:
    """Lay out one component. `gap` is the least space between boxes, `bend` the width of an edge on its way.

    Raises `DiagramTooLarge` for a graph that would have more than `MAX_SEGMENTS` lines.
    """
    edges = [edge for edge in edges if edge.tail != edge.head]
    turned = _edges_to_turn(list(widths), edges)
    down = [(edge, *((edge.head, edge.tail) if edge in turned else (edge.tail, edge.head))) for edge in edges]
    rank = _assign_layers(list(widths), [(upper, lower) for _, upper, lower in down])
    if sum(rank[lower] - rank[upper] for _, upper, lower in down) > MAX_SEGMENTS:
        raise DiagramTooLarge
    layout = DiagramLayout([[] for _ in range(max(rank.values(), default=-1) + 1)], widths=dict(widths))
    for name in widths:
        layout.layers[rank[name]].append(name)
    for number, (edge, upper, lower) in enumerate(down):
        _thread_edge(layout, rank, edge, (upper, lower), number, bend)
    _order_layers(layout)
    _place_boxes(layout, gap)
    return layout


def _edges_to_turn(names: list[str], edges: list[DiagramEdge]) -> set[DiagramEdge]:
    """Return the edges to turn round so that no cycle is left: those that lead back from a search."""
    below: dict[str, list[DiagramEdge]] = defaultdict(list)
    for edge in edges:
        below[edge.tail].append(edge)
    heads = {edge.head for edge in edges}
    found: set[DiagramEdge] = set()
    state: dict[str, int] = {}
    for start in sorted(names, key=lambda name: name in heads):
        if start in state:
            continue
        state[start] = 1
        path = [(start, iter(below[start]))]
        while path:
            name, rest = path[-1]
            for edge in rest:
                if state.get(edge.head) == 1:
                    found.add(edge)
                elif edge.head not in state:
                    state[edge.head] = 1
                    path.append((edge.head, iter(below[edge.head])))
                    break
            else:
                state[name] = 2
                path.pop()
    return found


def _assign_layers(names: list[str], pairs: list[tuple[str, str]]) -> dict[str, int]:
    """Return each box's layer: the longest way from a source; what has nothing above stands just above its next."""
    above, below = defaultdict(list), defaultdict(list)
    for upper, lower in pairs:
        above[lower].append(upper)
        below[upper].append(lower)
    rank: dict[str, int] = {}
    waiting = {name: len(above[name]) for name in names}
    ready = [name for name in names if not waiting[name]]
    for name in ready:  # grows while it is read
        rank[name] = max((rank[upper] + 1 for upper in above[name]), default=0)
        for lower in below[name]:
            waiting[lower] -= 1
            if not waiting[lower]:
                ready.append(lower)
    for name in reversed(ready):
        if not above[name] and below[name]:
            rank[name] = min(rank[lower] for lower in below[name]) - 1
    return rank


def _thread_edge(
    layout: DiagramLayout, rank: dict[str, int], edge: DiagramEdge, ends: tuple[str, str], number: int, bend: float
) -> None:
    """Lead an edge through the layers between its ends."""
    upper, lower = ends
    way = [upper]
    for layer in range(rank[upper] + 1, rank[lower]):
        name = f"\x00{number}.{layer}"
        layout.layers[layer].append(name)
        layout.widths[name] = bend
        layout.bends.add(name)
        way.append(name)
    way.append(lower)
    up = edge.head == upper
    for at in range(len(way) - 1):
        last = at == 0 if up else at == len(way) - 2
        layout.segments.append(EdgeSegment(way[at], way[at + 1], edge.style, up, last, edge))


def _neighbour_boxes(layout: DiagramLayout) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above, below = defaultdict(list), defaultdict(list)
    for step in layout.segments:
        above[step.lower].append(step.upper)
        below[step.upper].append(step.lower)
    return above, below


def _order_layers(layout: DiagramLayout) -> None:
    """Order each layer by the mean place of its neighbours, downwards and upwards; keep the best."""
    above, below = _neighbour_boxes(layout)
    best, fewest = [list(layer) for layer in layout.layers], _count_crossings(layout, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        layers = layout.layers if down else layout.layers[::-1]
        for near, layer in itertools.pairwise(layers):
            at = {name: number for number, name in enumerate(near)}
            side = above if down else below
            old = {name: number for number, name in enumerate(layer)}

            def weight(
                name: str, at: dict[str, int] = at, side: dict[str, list[str]] = side, old: dict[str, int] = old
            ) -> float:
                near = [at[other] for other in side[name] if other in at]
                return sum(near) / len(near) if near else float(old[name])

            layer.sort(key=weight)
        crossings = _count_crossings(layout, below)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layout.layers], crossings
    layout.layers[:] = best


def _count_crossings(layout: DiagramLayout, below: dict[str, list[str]]) -> int:
    total = 0
    for near, layer in itertools.pairwise(layout.layers):
        at = {name: number for number, name in enumerate(layer)}
        seen: list[int] = []  # the ends of lines from further left, in order
        for name in near:
            for end in sorted(at[lower] for lower in below[name]):
                total += len(seen) - bisect.bisect_right(seen, end)
                bisect.insort(seen, end)
    return total


def _place_boxes(layout: DiagramLayout, gap: float) -> None:
    """Pack boxes to the left, then let each go to the middle of its neighbours as far as the others allow."""
    above, below = _neighbour_boxes(layout)
    for layer in layout.layers:
        left = 0.0
        for name in layer:
            layout.centres[name] = left + layout.widths[name] / 2
            left += layout.widths[name] + gap
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        side = above if down else below
        for layer in layout.layers if down else layout.layers[::-1]:
            wished = {name: _median([layout.centres[other] for other in side[name]]) for name in layer}
            _settle_layer(layout, layer, wished, gap)
    least = min((layout.centres[n] - layout.widths[n] / 2 for layer in layout.layers for n in layer), default=0)
    for name in layout.centres:
        layout.centres[name] -= least


def _median(values: list[float]) -> float | None:
    if not values:
        return None
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _settle_layer(layout: DiagramLayout, layer: list[str], wished: dict[str, float | None], gap: float) -> None:
    """Move boxes by least squares under the order (pool adjacent violators): those that touch move as one."""
    blocks: list[tuple[float, int, float]] = []  # (mean of wish minus offset, how many, first offset)
    offset, offsets = 0.0, []
    for number, name in enumerate(layer):
        if number:
            offset += (layout.widths[layer[number - 1]] + layout.widths[name]) / 2 + gap
        offsets.append(offset)
        wish = wished[name]
        blocks.append(((layout.centres[name] if wish is None else wish) - offset, 1, offset))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count, _ = blocks.pop()
            other, more, first = blocks.pop()
            blocks.append(((mean * count + other * more) / (count + more), count + more, first))
    number = 0
    for mean, count, _ in blocks:
        for _ in range(count):
            layout.centres[layer[number]] = mean + offsets[number]
            number += 1
