"""A graph as SVG, without Graphviz: one file that scales, prints, and follows a dark page."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING

from runner.report.layout import arrange_component, connected_components
from runner.text import display_width

if TYPE_CHECKING:
    from runner.report.graph import Diagram, DiagramBox
    from runner.report.layout import DiagramEdge, DiagramLayout, EdgeSegment

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
    parts = [_Part(graph, names, edges) for names, edges in connected_components(list(graph.boxes), graph.edges)]
    body: list[str] = []
    first = _MARGIN + 24 if alone else 2.0
    left, top, height, right = _MARGIN, first, 0.0, 0.0
    for part in parts:
        if left > _MARGIN and left + part.width > _PAGE:
            left, top, height = _MARGIN, top + height + _GAP, 0.0
        body.append(f'<g transform="translate({left:.1f} {top:.1f})">\n{part.text}\n</g>')
        left, height = left + part.width + _GAP, max(height, part.height)
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
    """One component."""

    def __init__(self, graph: Diagram, names: list[str], edges: list[DiagramEdge]) -> None:
        self.boxes = {name: graph.boxes[name] for name in names}
        sizes = {name: _box_size(box) for name, box in self.boxes.items()}
        self.heights = {name: height for name, (_, height) in sizes.items()}
        self.layout: DiagramLayout = arrange_component(
            {name: wide for name, (wide, _) in sizes.items()}, edges, _GAP, _BEND
        )
        self.width = self.layout.width
        self.tops, self.bottoms = self._layer_rows()
        self.height = self.bottoms[-1] if self.bottoms else 0.0
        self.layer_of = {name: at for at, layer in enumerate(self.layout.layers) for name in layer}
        self.text = "\n".join([*self._draw_edges(), *(self._draw_box(box) for box in self.boxes.values())])

    def _layer_rows(self) -> tuple[list[float], list[float]]:
        """Return top and bottom of each layer; layers whose lines go far to the side stand further apart."""
        tops, bottoms, top = [], [], 0.0
        below = defaultdict(list)
        for step in self.layout.segments:
            below[step.upper].append(step)
        for number, layer in enumerate(self.layout.layers):
            height = max([self.heights.get(name, 0.0) for name in layer] or [0.0])
            tops.append(top)
            bottoms.append(top + height)
            steps = [step for name in layer for step in below[name]]
            far = max((abs(self._centre_of(step.upper) - self._centre_of(step.lower)) for step in steps), default=0.0)
            top += height + min(_MOST, max(_LEAST, far / 4)) if number + 1 < len(self.layout.layers) else 0.0
        return tops, bottoms

    def _centre_of(self, name: str) -> float:
        return self.layout.centres[name]

    def _draw_box(self, box: DiagramBox) -> str:
        wide, height = self.layout.widths[box.key], self.heights[box.key]
        top = self.tops[self.layer_of[box.key]]
        left = self._centre_of(box.key) - wide / 2
        round_ = 6 if box.kind == "task" else height / 2
        heat = "" if box.heat_level is None else f" load{box.heat_level}"
        lines = [
            f'<g class="{box.kind}{" faint" if box.is_faint else ""}{heat}">',
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{height:.1f}" rx="{round_:.1f}"/>',
        ]
        for number, text in enumerate(_box_texts(box)):
            y = top + (height - _LINE * len(_box_texts(box))) / 2 + _LINE * number + 12
            kind = "note" if number else "name"
            lines.append(f'<text class="{kind}" x="{self._centre_of(box.key):.1f}" y="{y:.1f}">{escape(text)}</text>')
        return "\n".join([*lines, "</g>"])

    def _draw_edges(self) -> list[str]:
        """Draw one path for each edge, through all its bends."""
        ways: dict[int, list[EdgeSegment]] = {}
        for step in self.layout.segments:
            ways.setdefault(id(step.edge), []).append(step)
        return [self._draw_edge(way) for way in ways.values()]

    def _draw_edge(self, way: list[EdgeSegment]) -> str:
        """Draw from where the edge begins, through the middle of its bends, to where its arrowhead is."""
        first = way[0]
        points: list[tuple[float, float]] = []
        shift = 10.0 if first.points_up else -10.0 if first.style == "after" else 0.0
        for name in (first.upper, *(step.lower for step in way)):
            layer, inside = self.layer_of[name], name in self.boxes
            if name == first.upper:
                points.append((self._centre_of(name) + shift, self.tops[layer] + self.heights[name]))
            elif inside:
                points.append((self._centre_of(name) + shift, self.tops[layer]))
            else:
                points += [(self._centre_of(name), self.tops[layer]), (self._centre_of(name), self.bottoms[layer])]
        if first.points_up:
            points.reverse()
        data = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for (x, y), (to_x, to_y) in itertools.pairwise(points):
            bow = (to_y - y) / 2
            straight = math.isclose(x, to_x, abs_tol=0.5)
            data += (
                f" L{to_x:.1f} {to_y:.1f}"
                if straight
                else f" C{x:.1f} {y + bow:.1f} {to_x:.1f} {to_y - bow:.1f} {to_x:.1f} {to_y:.1f}"
            )
        return f'<path class="{first.style}" d="{data}" marker-end="url(#arrow)"/>'


def _box_texts(box: DiagramBox) -> list[str]:
    if box.kind == "queue":
        return [box.name + (f" ({', '.join(box.notes)})" if box.notes else "")]
    return [box.name, *box.notes]


def _box_size(box: DiagramBox) -> tuple[float, float]:
    texts = _box_texts(box)
    most = max(display_width(text) for text in texts)
    return most * _CHAR + (24 if box.kind == "task" else 28), _LINE * len(texts) + (14 if box.kind == "task" else 8)
