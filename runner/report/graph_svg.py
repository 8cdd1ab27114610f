"""A graph as SVG, without Graphviz: one file that scales, prints, and follows a dark page."""

from __future__ import annotations

import itertools
import math
from html import escape
from typing import TYPE_CHECKING

from runner.report.layout import arrange_component
from runner.report.pipelines import connected_groups
from runner.text import display_width

if TYPE_CHECKING:
    from runner.report.graph import Diagram, DiagramBox
    from runner.report.layout import DiagramEdge

_CHAR, _LINE = 7.3, 16.0
_GAP, _BEND, _MARGIN = 28.0, 12.0, 20.0
_LEAST, _MOST = 44.0, 120.0  # between layers; more where lines have far to go to the side
_PAGE = 1200.0

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
        self.texts = {key: _box_texts(box) for key, box in boxes.items()}
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


def _box_texts(box: DiagramBox) -> list[str]:
    return [box.label] if box.kind == "queue" else [box.name, *box.notes]
