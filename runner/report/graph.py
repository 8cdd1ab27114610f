"""The tasks and queues of a file, or of a run, as a graph; as text, and in two formats that other programs draw.

A graph of a run has counts in its boxes, and knows each one's load: how busy a task was, how full a queue.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING

from msgspec import Struct

from runner.structs import dataclass
from runner.text import count_workers, printable_line, printable_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner import events
    from runner.model import Config, QueueConfig, TaskConfig
    from runner.report.record import RunRecord

HEAT_LEVELS = 5
#: Light enough for black letters: Mermaid and Graphviz know nothing of dark pages.
_FILLS = ("#f6f8fa", "#fff1c2", "#ffdf9e", "#ffc680", "#ffad7a")


@dataclass(frozen=True, slots=True)
class DiagramBox:
    """One task or queue: its name and what else is worth a line. `load_share`, from 0 to 1, is known of a run."""

    key: str
    name: str
    kind: str  # "task" or "queue"
    notes: tuple[str, ...] = ()
    is_faint: bool = False
    load_share: float | None = None

    @property
    def label(self) -> str:
        """Return the name with the notes behind it."""
        return self.name + (f" ({', '.join(self.notes)})" if self.notes else "")

    @property
    def heat_level(self) -> int | None:
        """Return the load as one of `HEAT_LEVELS` classes, to colour it by.

        >>> [DiagramBox("t.a", "a", "task", load_share=share).heat_level for share in (0.5, 1.0)]
        [2, 4]
        """
        return None if self.load_share is None else min(HEAT_LEVELS - 1, max(0, int(self.load_share * HEAT_LEVELS)))


class DiagramEdge(Struct, frozen=True):
    """From one box to another."""

    tail: str
    head: str
    style: str = "flow"


@dataclass(frozen=True, slots=True)
class Diagram:
    """Boxes and edges; styles of edges: "flow", "dead" (dead letters) and "after"."""

    title: str
    boxes: dict[str, DiagramBox]
    edges: list[DiagramEdge]


def diagram_of_config(config: Config) -> Diagram:
    """Return the graph of a file."""
    boxes = [
        DiagramBox(f"t.{task.name}", task.name, "task", _task_notes(task), not task.enabled)
        for task in config.tasks.values()
    ]
    boxes += [
        DiagramBox(f"q.{queue.name}", queue.name, "queue", _queue_notes(queue)) for queue in config.queues.values()
    ]
    return _connect_boxes(config.display_title, boxes, config.tasks.values())


def _connect_boxes(title: str, boxes: list[DiagramBox], tasks: Iterable[TaskConfig | events.TaskPlanned]) -> Diagram:
    """Return a graph of boxes with the edges that tasks say; an edge to what has no box is left out."""
    edges: list[DiagramEdge] = []
    for task in tasks:
        here = f"t.{task.name}"
        edges += [DiagramEdge(f"q.{queue}", here) for queue in task.inputs]
        edges += [DiagramEdge(here, f"q.{queue}") for queue in dict.fromkeys(task.outputs)]
        edges += [DiagramEdge(here, f"q.{task.dead}", "dead")] if task.dead else []
        edges += [DiagramEdge(f"t.{other}", here, "after") for other in task.after]
    found = {box.key: box for box in boxes}
    return Diagram(title, found, [edge for edge in edges if edge.tail in found and edge.head in found])


def _task_notes(task: TaskConfig | events.TaskPlanned) -> tuple[str, ...]:
    noun = task.mode if task.mode in {"thread", "process"} else "worker"
    counted = count_workers(task.workers, task.least_workers, noun)
    notes = (counted, *([] if getattr(task, "enabled", True) else ["not enabled"]))
    return notes if task.call == task.name else (printable_text(task.call), *notes)


def _queue_notes(queue: QueueConfig) -> tuple[str, ...]:
    size = "" if queue.size == 1000 else str(queue.size)
    ways = (queue.full if queue.drops else "", queue.order if queue.is_ranked else "")
    lane = f"lane {printable_text(queue.lane)}" if queue.lane else ""
    return tuple(filter(None, (size, queue.fanout, "loop" if queue.loop else "", *ways, lane)))


def diagram_of_run(record: RunRecord) -> Diagram:
    """Return the graph of a run with its counts; a task or queue of which nothing is known has none."""
    tasks = {task.name: task for task in record.tasks}
    queues = {queue.name: queue for queue in record.queues}
    boxes: list[DiagramBox] = []
    counts = partial(_queue_counts, goes_on=record.exit_code is None)
    for task in record.plan.tasks:
        key, ended = f"t.{task.name}", tasks.get(task.name)
        skipped = ended is not None and ended.how == "skipped"
        load = None if ended is None or skipped else ended.busy
        boxes.append(DiagramBox(key, printable_text(task.name), "task", _task_counts(task, ended), skipped, load))
    for queue in record.plan.queues:
        key, seen = f"q.{queue.name}", queues.get(queue.name)
        load = min(1.0, seen.most / queue.size) if seen and queue.size else None
        boxes.append(DiagramBox(key, printable_text(queue.name), "queue", counts(queue, seen), load_share=load))
    return _connect_boxes(printable_line(record.title), boxes, record.plan.tasks)


def _task_counts(task: events.TaskPlanned, ended: events.TaskSummary | None) -> tuple[str, ...]:
    notes = [*_task_notes(task)]
    if ended is None:
        return tuple(notes)
    if ended.how == "skipped":
        return (*notes, "not started")
    notes += ["failed"] if ended.how == "failed" else []
    notes += [f"{ended.done:,} done"] if task.inputs else [f"{ended.sent:,} sent"] if task.outputs else []
    counts = ((ended.dead, "dead"), (ended.dropped, "dropped"), (ended.left, "left"), (ended.repeated, "repeated"))
    more = [f"{count:,} {word}" for count, word in counts if count]
    return (*notes, *([", ".join(more)] if more else []), f"{ended.busy:.0%} busy")


def _queue_counts(queue: events.QueuePlanned, seen: events.QueueSummary | None, *, goes_on: bool) -> tuple[str, ...]:
    if seen is None:
        return ()
    notes = [f"{seen.put:,} in"] if not goes_on else []  # of a run that goes on, that is told at its end
    left = "waiting" if goes_on else "left"
    notes += [f"{count:,} {word}" for count, word in ((seen.dropped, "dropped"), (seen.left, left)) if count]
    full = queue.size is not None and seen.most >= queue.size
    return (*notes, f"full at {queue.size:,}" if full else f"at most {seen.most:,}")


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


def to_mermaid(graph: Diagram) -> str:
    """Write a flowchart for Mermaid, as GitHub and GitLab draw it in Markdown."""
    ids = {key: f"n{number}" for number, key in enumerate(graph.boxes)}
    lines = ["flowchart TD"]
    for box in graph.boxes.values():
        text = "<br/>".join(map(_mermaid_text, (box.name, *box.notes)))
        lines.append(f"    {ids[box.key]}" + (f'["{text}"]' if box.kind == "task" else f'(["{text}"])'))
    heats = sorted({box.heat_level for box in graph.boxes.values() if box.heat_level is not None})
    lines += [f"    classDef load{heat} fill:{_FILLS[heat]},color:#000" for heat in heats]
    lines += [
        f"    class {ids[box.key]} load{box.heat_level}" for box in graph.boxes.values() if box.heat_level is not None
    ]
    arrows = {"flow": "-->", "dead": "-. dead .->", "after": "-. after .->"}
    lines += [f"    {ids[edge.tail]} {arrows[edge.style]} {ids[edge.head]}" for edge in graph.edges]
    return "\n".join(lines)


def _mermaid_text(text: str) -> str:
    return "".join(char if char.isalnum() or char in " _-.:" else f"#{ord(char)};" for char in text)


def to_dot(graph: Diagram) -> str:
    """Write a digraph for Graphviz."""
    lines = [
        "digraph {",
        f"    label={_dot_text(graph.title)}; labelloc=t;",
        '    node [fontname="sans-serif"]; edge [fontname="sans-serif", fontsize=10];',
    ]
    for box in graph.boxes.values():
        text = _dot_text("\n".join((box.name, *box.notes)))
        styles = [*(["rounded"] if box.kind == "task" else []), *(["filled"] if box.heat_level is not None else [])]
        shape = "shape=box" if box.kind == "task" else "shape=cds"
        shape += f', style="{",".join(styles)}"' if styles else ""
        shape += f', fillcolor="{_FILLS[box.heat_level]}"' if box.heat_level is not None else ""
        lines.append(f"    {_dot_text(box.key)} [label={text}, {shape}];")
    looks = {"flow": "", "dead": ' [style=dashed, label="dead"]', "after": ' [style=dotted, label="after"]'}
    lines += [f"    {_dot_text(edge.tail)} -> {_dot_text(edge.head)}{looks[edge.style]};" for edge in graph.edges]
    return "\n".join([*lines, "}"])


def _dot_text(text: str) -> str:
    escaped = printable_text(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_text(graph: Diagram, columns: int = 80) -> str:
    """Write each task below those that it waits for, its queues and their readers; one above its writer is marked."""
    order = top_down_order(list(graph.boxes), graph.edges)
    place = {key: at for at, key in enumerate(order)}
    edges: dict[tuple[str, str], list[DiagramEdge]] = defaultdict(list)
    written = {edge.head for edge in graph.edges}
    for edge in graph.edges:
        edges[("after", edge.head) if edge.style == "after" else ("below", edge.tail)].append(edge)

    def readers(key: str, writer: str) -> str:
        heads = [edge.head for edge in edges["below", key]]
        names = [graph.boxes[head].name + (" (above)" if place[head] <= place[writer] else "") for head in heads]
        return f" -> {', '.join(names)}" if names else ""

    lines: list[str] = []
    for key in order:
        box = graph.boxes[key]
        if box.kind == "queue":
            lines += [] if key in written else [f"{box.label}{readers(key, key)}"]
            continue
        notes = [*box.notes, *(f"after {graph.boxes[edge.tail].name}" for edge in edges["after", key])]
        lines.append(f"{box.name}: {', '.join(notes)}")
        for edge in edges["below", key]:
            dead = "dead letters " if edge.style == "dead" else ""
            lines.append(f"  {dead}-> {graph.boxes[edge.head].label}{readers(edge.head, key)}")
    wrapped = (wrap(line, columns, subsequent_indent=" " * 6, break_long_words=False) for line in lines)
    return "\n".join(itertools.chain.from_iterable(wrapped))
