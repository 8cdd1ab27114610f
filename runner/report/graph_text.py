"""A graph as text: boxes and arrows of characters, as wide as a terminal.

Between two layers, everything that leaves one box in one style shares a line: down from the box, along a row of its
own, down to each target. Rows are chosen so that no line runs on top of another one that leads elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from runner.report.graph import to_text_lines
from runner.report.layout import DiagramTooLarge, arrange_component, connected_components
from runner.structs import dataclass, field
from runner.text import align_text, display_width

if TYPE_CHECKING:
    from runner.report.graph import Diagram, DiagramBox
    from runner.report.layout import DiagramLayout, EdgeSegment

_N, _E, _S, _W = 1, 2, 4, 8
_LINES = {
    _N | _S: "│", _E | _W: "─", _N | _E: "└", _N | _W: "┘", _S | _E: "┌", _S | _W: "┐",
    _N | _S | _E: "├", _N | _S | _W: "┤", _E | _W | _S: "┬", _E | _W | _N: "┴", 15: "┼",
    _N: "│", _S: "│", _E: "─", _W: "─",
}  # fmt: skip
_DOTTED = {"│": "┆", "─": "┄"}
_GAP = 3
#: A box of this width has room for a line beside the one in its middle.
_ROOMY = 7
#: Nobody reads a wider drawing.
_MOST_COLUMNS = 1000


def draw_as_text(graph: Diagram, columns: int) -> str:
    """Draw the graph within `columns`; with shorter boxes, or as lines, when there is no room."""
    columns = min(columns, _MOST_COLUMNS)
    for notes in (True, False):
        pictures = _draw_components(graph, columns, notes=notes)
        if pictures is not None:
            return "\n".join(_pack_pictures(pictures, columns))
    return to_text_lines(graph)


def _draw_components(graph: Diagram, columns: int, *, notes: bool) -> list[list[str]] | None:
    """Draw a picture of each component; None when one has no room."""
    found = []
    for names, edges in connected_components(list(graph.boxes), graph.edges):
        labels = {name: _box_label(graph.boxes[name], notes=notes) for name in names}
        # Odd widths have a middle column, so straight lines stay straight.
        widths: dict[str, float] = {name: display_width(label[0]) for name, label in labels.items()}
        try:
            layout = arrange_component(widths, edges, _GAP, 1)
        except DiagramTooLarge:
            return None
        if layout.width > columns + 1:  # straightening moves boxes by one column
            return None
        lines = TextPicture(layout, labels).draw_lines()
        if any(display_width(line) > columns for line in lines):
            return None
        found.append(lines)
    return found


def _box_label(box: DiagramBox, *, notes: bool) -> list[str]:
    if box.kind == "queue":
        text = f"({box.name}{': ' + ', '.join(box.notes) if notes and box.notes else ''})"
        return [text if display_width(text) % 2 else f"{text} "]
    inside = [box.name, *(box.notes if notes else ())]
    most = max(display_width(text) for text in inside)
    most += 1 - most % 2
    rows = [f"│ {align_text(text, most, '^')} │" for text in inside]
    return ["┌" + "─" * (most + 2) + "┐", *rows, "└" + "─" * (most + 2) + "┘"]


def _pack_pictures(pictures: list[list[str]], columns: int) -> list[str]:
    """Put pictures side by side as long as there is room."""
    lines: list[str] = []
    row: list[list[str]] = []
    for picture in pictures:
        together = sum(_picture_width(one) for one in [*row, picture]) + _GAP * len(row)
        if row and together > columns:
            lines += [*_join_pictures(row), ""]
            row = []
        row.append(picture)
    return lines + _join_pictures(row)


def _picture_width(picture: list[str]) -> int:
    return max((display_width(line) for line in picture), default=0)


def _join_pictures(row: list[list[str]]) -> list[str]:
    height = max((len(picture) for picture in row), default=0)
    cells = []
    for one in row:
        across = _picture_width(one)  # once: measuring a line of other letters than ASCII takes time
        cells.append([align_text(line, across) for line in [*one, *[""] * (height - len(one))]])
    return [(" " * _GAP).join(parts).rstrip() for parts in zip(*cells, strict=True)]


@dataclass(slots=True)
class LineBundle:
    """All edges that share a line between two layers: its source, its targets, the row it runs in."""

    source: int
    targets: set[int]
    is_dotted: bool
    arrowheads_down: set[int] = field(default_factory=set)
    arrowhead_up: bool = False
    movable_targets: set[int] = field(default_factory=set)
    row: int = 0

    @property
    def column_range(self) -> tuple[int, int]:
        """Return the first and the last column of its row."""
        return min(self.source, *self.targets), max(self.source, *self.targets)

    @property
    def is_straight(self) -> bool:
        """Return True if it needs no row."""
        return self.targets == {self.source}


class TextPicture:
    """One component on a canvas of characters."""

    def __init__(self, layout: DiagramLayout, labels: dict[str, list[str]]) -> None:
        self.layout = layout
        self.labels = labels
        self.cells: dict[tuple[int, int], str] = {}
        self.segments_above: dict[str, list[EdgeSegment]] = defaultdict(list)
        self.segments_below: dict[str, list[EdgeSegment]] = defaultdict(list)
        for step in layout.segments:
            self.segments_above[step.lower].append(step)
            self.segments_below[step.upper].append(step)
        self.left_columns = {name: round(layout.centres[name] - layout.widths[name] / 2) for name in layout.centres}
        self._straighten_lines()

    def draw_lines(self) -> list[str]:
        """Draw the component."""
        row = 0
        for number, layer in enumerate(self.layout.layers):
            height = max(len(self.labels.get(name, ["│"])) for name in layer)
            for name in layer:
                self._draw_box(name, row, height)
            row += height
            if number + 1 < len(self.layout.layers):
                row += self._draw_between_layers(number, row)
        bottom = max((y for y, _ in self.cells), default=-1)
        ends = [0] * (bottom + 1)
        for y, x in self.cells:
            ends[y] = max(ends[y], x + 1)
        return ["".join(self.cells.get((y, x), " ") for x in range(end)).rstrip() for y, end in enumerate(ends)]

    def _straighten_lines(self) -> None:
        """Move a box below a line that rounding has left one column off, where there is room."""
        for number, layer in enumerate(self.layout.layers[1:], 1):
            for at, name in enumerate(layer):
                slips = [
                    self._middle_column(step.upper) - self._middle_column(name) for step in self.segments_above[name]
                ]
                slip = slips[0] if len(slips) == 1 else 0
                if (
                    abs(slip) != 1
                    or self._left_free(number, at) + slip < 1
                    or self._left_free(number, at + 1) - slip < 1
                ):
                    continue
                self.left_columns[name] += slip

    def _left_free(self, number: int, at: int) -> int:
        """Return the columns between box `at` of a layer and the one before it."""
        layer = self.layout.layers[number]
        if at in {0, len(layer)}:
            return self.left_columns[layer[0]] if at == 0 else 2
        before = layer[at - 1]
        return self.left_columns[layer[at]] - self.left_columns[before] - int(self.layout.widths[before])

    def _middle_column(self, name: str) -> int:
        return self.left_columns[name] + int(self.layout.widths[name]) // 2

    def _draw_box(self, name: str, top: int, height: int) -> None:
        """Draw a box at the top of its layer; lines lead on to the bottom below shorter ones."""
        label = self.labels.get(name)
        if label is None:
            char = "┆" if self._dotted_bend(name) else "│"
            for y in range(top, top + height):
                self.cells[y, self.left_columns[name]] = char
            return
        for y, text in enumerate(label):
            x = self.left_columns[name]
            for char in text:
                self.cells[top + y, x] = char
                for behind in range(1, display_width(char)):  # East Asian characters take two columns
                    self.cells[top + y, x + behind] = ""
                x += display_width(char)
        for port, dotted in self._ports_below(name):
            for y in range(top + len(label), top + height):
                self.cells[y, port] = "┆" if dotted else "│"

    def _dotted_bend(self, name: str) -> bool:
        return any(step.style == "after" for step in (*self.segments_above[name], *self.segments_below[name]))

    def _ports_below(self, name: str) -> set[tuple[int, bool]]:
        return {
            (self._port_column(name, step.style, up=step.points_up, below=True), step.style == "after")
            for step in self.segments_below[name]
        }

    def _port_column(self, name: str, style: str, *, up: bool, below: bool) -> int:
        """Return the column where a line meets a box: flows in the middle, what leads back and `after` beside it."""
        middle = self._middle_column(name)
        if name in self.layout.bends:
            return middle
        sides = {
            (step.points_up, step.style == "after")
            for step in (self.segments_below if below else self.segments_above)[name]
        }
        reach = (int(self.layout.widths[name]) - 1) // 2
        ways = [side for side in ((False, False), (True, False), (False, True), (True, True)) if side in sides]
        places = [middle, middle + min(2, reach), middle - min(2, reach), middle + min(4, reach)]
        return places[ways.index((up, style == "after"))]

    # -- between two layers --------------------------------------------------------------------

    def _line_bundles(self, number: int) -> list[LineBundle]:
        nets: dict[tuple[str, bool, bool], LineBundle] = {}
        for step in [step for name in self.layout.layers[number] for step in self.segments_below[name]]:
            dotted = step.style == "after"
            source = self._port_column(step.upper, step.style, up=step.points_up, below=True)
            target = self._port_column(step.lower, step.style, up=step.points_up, below=False)
            net = nets.setdefault((step.upper, step.points_up, dotted), LineBundle(source, set(), dotted))
            net.targets.add(target)
            if self.layout.widths[step.lower] >= _ROOMY:
                net.movable_targets.add(target)
            if step.has_arrowhead and step.points_up:
                net.arrowhead_up = True
            elif step.has_arrowhead:
                net.arrowheads_down.add(target)
        return list(nets.values())

    def _draw_between_layers(self, number: int, top: int) -> int:
        """Draw the lines between layer `number` and the next; return how many rows they take."""
        nets = self._line_bundles(number)
        rows = _assign_rows(nets)
        height = max(rows + 2, 2) if rows else 2 if any(net.arrowhead_up or net.arrowheads_down for net in nets) else 1
        masks: dict[tuple[int, int], list[tuple[int, LineBundle]]] = defaultdict(list)
        for net in nets:
            for (y, x), mask in _bundle_cells(net, top, height).items():
                masks[y, x].append((mask, net))
        for (y, x), found in masks.items():
            self.cells[y, x] = _cell_character(found)
        for net in nets:
            if net.arrowhead_up:
                self.cells[top, net.source] = "▲"
            for target in net.arrowheads_down:
                self.cells[top + height - 1, target] = "▼"
        return height


def _bundle_cells(net: LineBundle, top: int, height: int) -> dict[tuple[int, int], int]:
    """Return every cell of a net with the directions in which lines leave it."""
    cells: dict[tuple[int, int], int] = defaultdict(int)
    bottom = top + height - 1
    if net.is_straight:
        return dict.fromkeys(((y, net.source) for y in range(top, bottom + 1)), _N | _S)
    middle = top + 1 + net.row
    for y in range(top, middle):
        cells[y, net.source] |= _N | _S
    cells[middle, net.source] |= _N
    low, high = net.column_range
    for x in range(low, high):
        cells[middle, x] |= _E
        cells[middle, x + 1] |= _W
    for target in net.targets:
        cells[middle, target] |= _S
        for y in range(middle + 1, bottom + 1):
            cells[y, target] |= _N | _S
    return cells


def _cell_character(found: list[tuple[int, LineBundle]]) -> str:
    """Return the character of a cell; where lines only cross, the one from top to bottom runs through."""
    upright = [(mask, net) for mask, net in found if mask == _N | _S]
    if len(found) > 1 and upright and all(mask in {_N | _S, _E | _W} for mask, _ in found):
        found = upright
    mask = 0
    for one, _ in found:
        mask |= one
    char = _LINES[mask]
    return _DOTTED.get(char, char) if all(net.is_dotted for _, net in found) else char


def _assign_rows(nets: list[LineBundle]) -> int:
    """Give each net that bends a row, and return how many there are.

    A net whose source stands above another net's target takes a row above that net's, or their upright parts would
    lie on each other. Where that is not possible (each above the other), one of the targets moves aside.
    """
    bent = [net for net in nets if not net.is_straight]
    placed: list[LineBundle] = []
    rest = list(bent)
    while rest:
        free = [net for net in rest if not any(_must_run_above(other, net) for other in rest if other is not net)]
        if not free and _step_aside(rest):
            continue
        net = (free or rest)[0]
        rest.remove(net)
        net.row = max((other.row + 1 for other in placed if _must_run_above(other, net)), default=0)
        while any(other.row == net.row and _rows_touch(other, net) for other in placed):
            net.row += 1
        placed.append(net)
    return max((net.row + 1 for net in bent), default=0)


def _step_aside(nets: list[LineBundle]) -> bool:
    """Move one target that lies below another net's source; False when none can."""
    for net in nets:
        for other in nets:
            at = other.source
            if other is not net and at in net.targets & net.movable_targets:
                net.movable_targets.discard(at)
                for columns in (net.targets, net.arrowheads_down):
                    if at in columns:
                        columns.remove(at)
                        columns.add(at - 2)
                return True
    return False


def _must_run_above(first: LineBundle, second: LineBundle) -> bool:
    """Return True if `first` must run above `second`."""
    return first.source in second.targets


def _rows_touch(one: LineBundle, other: LineBundle) -> bool:
    (low, high), (left, right) = one.column_range, other.column_range
    meet = {high} if high == left else {low} if low == right else set()
    if meet and meet <= one.targets & other.targets and one.is_dotted == other.is_dotted:
        return False  # they come from both sides to one target
    return low <= right + 1 and left <= high + 1
