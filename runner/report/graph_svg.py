"""A graph as SVG, without Graphviz: one file that scales, prints, and follows a dark page.

Layers from top to bottom, few crossings, straight lines where they can be, after Sugiyama, Tagawa and Toda (1981): turn
the edges that close cycles, assign layers, put bends on long edges, then order each layer by the places of its
neighbours and move every box towards them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING

from runner.report.graph import top_down_order
from runner.structs import dataclass
from runner.text import display_width
from runner.topology import connected_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from runner.report.graph import Diagram, DiagramBox, DiagramEdge

_CHAR, _LINE = 7.3, 16.0
_GAP, _BEND, _MARGIN = 28.0, 12.0, 20.0
_LEAST, _MOST = 44.0, 120.0  # between layers; more where lines have far to go to the side
_PAGE = 1200.0
_SWEEPS = 12
#: A picture of more lines between layers helps nobody, and would take seconds.
MAX_SEGMENTS = 10_000

#: For the picture alone, and for a page that it stands in: every rule begins with the picture's own class. The colours
#: of loads are as in `graph._FILLS`, and again for dark pages.
SVG_STYLE = """
    .topology text { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328;
      text-anchor: middle }
    .topology .name { font-weight: 600 } .topology .note { fill: #59636e; font-size: 11px }
    .topology .title { font-size: 15px; font-weight: 600 }
    .topology .task rect { fill: #ddf4ff; stroke: #0969da } .topology .queue rect { fill: #fff8c5; stroke: #bf8700 }
    .topology .load0 rect { fill: #f6f8fa } .topology .load1 rect { fill: #fff1c2 }
    .topology .load2 rect { fill: #ffdf9e } .topology .load3 rect { fill: #ffc680 }
    .topology .load4 rect { fill: #ffad7a } .topology [class*=load] .note { fill: #1f2328 }
    .topology .faint { opacity: .45 }
    .topology path { fill: none; stroke: #59636e; stroke-width: 1.4 }
    .topology marker path { fill: #59636e; stroke: none }
    .topology .dead { stroke-dasharray: 6 3; stroke: #cf222e }
    .topology .after { stroke-dasharray: 1.5 4; stroke-linecap: round }
    @media screen and (prefers-color-scheme: dark) {
      .topology text, .topology [class*=load] .note { fill: #f0f6fc } .topology .note { fill: #9198a1 }
      .topology path { stroke: #9198a1 } .topology marker path { fill: #9198a1 }
      .topology .task rect { fill: #121d2f; stroke: #4493f8 } .topology .queue rect { fill: #272115; stroke: #d29922 }
      .topology .load0 rect { fill: #151b23 } .topology .load1 rect { fill: #3a2d0c }
      .topology .load2 rect { fill: #553a08 } .topology .load3 rect { fill: #703f0a }
      .topology .load4 rect { fill: #8a3a10 }
      .topology .dead { stroke: #f85149 }
    }"""


class DiagramTooLarge(Exception):
    """The graph is too large for a picture."""


def to_svg(graph: Diagram, *, alone: bool = True) -> str:
    """Write the text of an SVG file; not `alone`: for a page that has a heading and `SVG_STYLE`."""
    body: list[str] = []
    left, top, height, right = _MARGIN, _MARGIN + 24 if alone else 2.0, 0.0, 0.0
    for keys in connected_groups(graph.boxes, [(edge.tail, edge.head) for edge in graph.edges]):
        boxes = {key: graph.boxes[key] for key in keys}
        part = _Part(boxes, [edge for edge in graph.edges if edge.tail in boxes])
        if left > _MARGIN and left + part.layout.width > _PAGE:
            left, top, height = _MARGIN, top + height + _GAP, 0.0
        body.append(f'<g transform="translate({left:.1f} {top:.1f})">\n{part.draw()}\n</g>')
        left, height = left + part.layout.width + _GAP, max(height, part.bottoms[-1])
        right = max(right, left - _GAP)
    right = max(right + _MARGIN, display_width(graph.title) * 9.2 + 2 * _MARGIN if alone else 0)
    bottom = top + height + (_MARGIN if alone else 2)
    title = escape(graph.title)
    heading = f'<text class="title" x="{right / 2:.1f}" y="{_MARGIN + 4:.1f}">{title}</text>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:.0f} {bottom:.0f}"',
            f' width="{right:.0f}" height="{bottom:.0f}" class="topology" role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            *([f"<style>{SVG_STYLE}\n</style>"] if alone else []),
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8"',
            ' orient="auto"><path d="M0 0.5 L8 4 L0 7.5 z"/></marker></defs>',
            *([heading] if alone else []),
            *body,
            "</svg>",
        ]
    )


class _Part:
    """One component: each box's texts and height, and the top and bottom of each layer."""

    def __init__(self, boxes: dict[str, DiagramBox], edges: list[DiagramEdge]) -> None:
        self.boxes = boxes
        self.texts = {key: [box.label] if box.kind == "queue" else [box.name, *box.notes] for key, box in boxes.items()}
        self.heights = {key: _LINE * len(self.texts[key]) + (14 if boxes[key].kind == "task" else 8) for key in boxes}
        widths = {
            key: max(map(display_width, self.texts[key])) * _CHAR + (24 if boxes[key].kind == "task" else 28)
            for key in boxes
        }
        self.layout = arrange_component(widths, edges, _GAP, _BEND)
        self.layer_of = {name: at for at, layer in enumerate(self.layout.layers) for name in layer}
        farthest = [0.0] * len(self.layout.layers)  # that a line below a layer goes to the side
        for way in self.layout.ways.values():
            for upper, lower in itertools.pairwise(way):
                far = abs(self.layout.centres[upper] - self.layout.centres[lower])
                farthest[self.layer_of[upper]] = max(farthest[self.layer_of[upper]], far)
        self.tops: list[float] = []
        self.bottoms: list[float] = []
        top = 0.0
        for layer, far in zip(self.layout.layers, farthest, strict=True):
            self.tops.append(top)
            self.bottoms.append(top + max(self.heights.get(name, 0.0) for name in layer))
            top = self.bottoms[-1] + min(_MOST, max(_LEAST, far / 4))

    def draw(self) -> str:
        """Draw the edges, and the boxes above them."""
        edges = [self._draw_edge(edge, way) for edge, way in self.layout.ways.items()]
        return "\n".join([*edges, *map(self._draw_box, self.boxes.values())])

    def _draw_box(self, box: DiagramBox) -> str:
        centre, wide, height = self.layout.centres[box.key], self.layout.widths[box.key], self.heights[box.key]
        top = self.tops[self.layer_of[box.key]]
        corner = 6 if box.kind == "task" else height / 2
        size = f'width="{wide:.1f}" height="{height:.1f}" rx="{corner:.1f}"'
        heat = "" if box.heat_level is None else f" load{box.heat_level}"
        lines = [
            f'<g class="{box.kind}{" faint" if box.is_faint else ""}{heat}">',
            f'<rect x="{centre - wide / 2:.1f}" y="{top:.1f}" {size}/>',
        ]
        first = top + (height - _LINE * len(self.texts[box.key])) / 2 + 12
        for number, text in enumerate(self.texts[box.key]):
            kind, y = "note" if number else "name", first + _LINE * number
            lines.append(f'<text class="{kind}" x="{centre:.1f}" y="{y:.1f}">{escape(text)}</text>')
        return "\n".join([*lines, "</g>"])

    def _draw_edge(self, edge: DiagramEdge, way: list[str]) -> str:
        """Draw from where the edge begins, through the middle of its bends, to where its arrowhead is."""
        upper, *bends, lower = way
        up = edge.head == upper
        shift = 10.0 if up else -10.0 if edge.style == "after" else 0.0
        centres, layers = self.layout.centres, self.layer_of
        points = [(centres[upper] + shift, self.tops[layers[upper]] + self.heights[upper])]
        for name in bends:
            points += [(centres[name], self.tops[layers[name]]), (centres[name], self.bottoms[layers[name]])]
        points.append((centres[lower] + shift, self.tops[layers[lower]]))
        if up:
            points.reverse()
        data = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for (x, y), (to_x, to_y) in itertools.pairwise(points):
            bow = (to_y - y) / 2
            straight = math.isclose(x, to_x, abs_tol=0.5)
            data += "" if straight else f" C{x:.1f} {y + bow:.1f} {to_x:.1f} {to_y - bow:.1f}"
            data += f" {'L' if straight else ''}{to_x:.1f} {to_y:.1f}"
        return f'<path class="{edge.style}" d="{data}" marker-end="url(#arrow)"/>'


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
    above, below = _neighbours(pairs)
    rank: dict[str, int] = {}
    for name in order:
        rank[name] = max((rank[upper] + 1 for upper in above[name]), default=0)
    for name in reversed(order):
        if not above[name] and below[name]:
            rank[name] = min(rank[lower] for lower in below[name]) - 1
    return rank


def _neighbours(pairs: Iterable[Sequence[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what stands above and below each name, from pairs of an upper and a lower one."""
    above, below = defaultdict(list), defaultdict(list)
    for upper, lower in pairs:
        above[lower].append(upper)
        below[upper].append(lower)
    return above, below


def _place_boxes(layout: DiagramLayout, gap: float) -> None:
    """Pack boxes to the left, then let each go to the middle of its neighbours, above and below in turn.

    In the first sweeps boxes of a layer change places for that, in the last ones they keep their order.
    """
    above, below = _neighbours(itertools.chain(*map(itertools.pairwise, layout.ways.values())))
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
