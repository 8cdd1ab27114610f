"""Places for the boxes of a graph: layers from top to bottom, few crossings, straight lines where they can be.

After Sugiyama, Tagawa and Toda (1981): turn the edges that close cycles, assign layers, put bends on long edges, then
order each layer by the places of its neighbours and move every box towards them. Units are the caller's.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec import Struct

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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


@dataclass(slots=True)
class DiagramLayout:
    """Layers of boxes and bends from left to right, the centre of each, and each edge's way from layer to layer.

    A way is the names of boxes and bends from the upper end of the edge to the lower one, whichever is its head.
    """

    layers: list[list[str]]
    widths: dict[str, float]
    centres: dict[str, float]
    ways: dict[DiagramEdge, list[str]]

    @property
    def width(self) -> float:
        """Return the distance from the left edge, which is 0, to the right one."""
        return max((self.centres[box] + self.widths[box] / 2 for box in self.centres), default=0)


def top_down_order(names: Sequence[str], edges: Iterable[DiagramEdge]) -> list[str]:
    """Return the names so that every edge leads down, apart from those that close a cycle.

    >>> top_down_order(["c", "b", "a"], [DiagramEdge("a", "b"), DiagramEdge("b", "c"), DiagramEdge("c", "b")])
    ['a', 'b', 'c']
    """
    below: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        below[edge.tail].append(edge.head)
    heads = {head for tail, found in below.items() for head in found if head != tail}
    stack = sorted(names, key=lambda name: name not in heads)
    entered: set[str] = set()
    finished: dict[str, None] = {}  # depth first: all that is below a name is finished before it
    while stack:
        name = stack.pop()
        if name in entered:
            finished.setdefault(name)
        else:
            entered.add(name)
            stack += [name, *(lower for lower in below[name] if lower not in entered)]
    return list(finished)[::-1]


def arrange_component(
    widths: Mapping[str, float], edges: Iterable[DiagramEdge], gap: float, bend: float
) -> DiagramLayout:
    """Lay out one component. `gap` is the least space between boxes, `bend` the width of an edge on its way.

    Raises `DiagramTooLarge` for a graph that would have more than `MAX_SEGMENTS` lines.
    """
    edges = [edge for edge in edges if edge.tail != edge.head]
    order = top_down_order(list(widths), edges)
    place = {name: at for at, name in enumerate(order)}
    ends = {edge: sorted((edge.tail, edge.head), key=place.__getitem__) for edge in edges}
    rank = _assign_layers(order, ends.values())
    if sum(rank[lower] - rank[upper] for upper, lower in ends.values()) > MAX_SEGMENTS:
        raise DiagramTooLarge
    layout = DiagramLayout([[] for _ in range(max(rank.values(), default=-1) + 1)], dict(widths), {}, {})
    for name in widths:
        layout.layers[rank[name]].append(name)
    for number, (edge, (upper, lower)) in enumerate(ends.items()):
        bends = {f"\x00{number}.{layer}": layer for layer in range(rank[upper] + 1, rank[lower])}
        for name, layer in bends.items():
            layout.layers[layer].append(name)
            layout.widths[name] = bend
        layout.ways[edge] = [upper, *bends, lower]
    _place_boxes(layout, gap)
    return layout


def _assign_layers(order: list[str], pairs: Iterable[Sequence[str]]) -> dict[str, int]:
    """Return each box's layer: the longest way from a source; what has nothing above stands just above its next."""
    above, below = defaultdict(list), defaultdict(list)
    for upper, lower in pairs:
        above[lower].append(upper)
        below[upper].append(lower)
    rank: dict[str, int] = {}
    for name in order:
        rank[name] = max((rank[upper] + 1 for upper in above[name]), default=0)
    for name in reversed(order):
        if not above[name] and below[name]:
            rank[name] = min(rank[lower] for lower in below[name]) - 1
    return rank


def _place_boxes(layout: DiagramLayout, gap: float) -> None:
    """Pack boxes to the left, then let each go to the middle of its neighbours, above and below in turn.

    In the first sweeps boxes of a layer change places for that, in the last ones they keep their order.
    """
    above, below = defaultdict(list), defaultdict(list)
    for way in layout.ways.values():
        for upper, lower in itertools.pairwise(way):
            above[lower].append(upper)
            below[upper].append(lower)
    for layer in layout.layers:
        _settle_layer(layout, layer, lambda _: 0.0, gap)
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        side = above if down else below

        def wished_centre(name: str, side: dict[str, list[str]] = side) -> float:
            near = sorted(layout.centres[other] for other in side[name])
            return (near[(len(near) - 1) // 2] + near[len(near) // 2]) / 2 if near else layout.centres[name]

        for layer in layout.layers if down else layout.layers[::-1]:
            if sweep < _SWEEPS:
                layer.sort(key=wished_centre)
            _settle_layer(layout, layer, wished_centre, gap)
    least = min((layout.centres[name] - layout.widths[name] / 2 for name in layout.centres), default=0)
    for name in layout.centres:
        layout.centres[name] -= least


def _settle_layer(layout: DiagramLayout, layer: list[str], wished_centre: Callable[[str], float], gap: float) -> None:
    """Move boxes by least squares under the order (pool adjacent violators): those that touch move as one."""
    blocks: list[tuple[float, list[str]]] = []  # (mean of wish minus offset, boxes)
    offsets: dict[str, float] = {}
    offset = -gap
    for name in layer:
        offset += gap + layout.widths[name] / 2
        offsets[name] = offset
        offset += layout.widths[name] / 2
        blocks.append((wished_centre(name) - offsets[name], [name]))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, names = blocks.pop()
            other, before = blocks.pop()
            together = [*before, *names]
            blocks.append(((mean * len(names) + other * len(before)) / len(together), together))
    layout.centres |= {name: mean + offsets[name] for mean, names in blocks for name in names}
