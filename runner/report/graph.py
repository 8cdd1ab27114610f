"""The tasks and queues of a file as a graph to draw; and the two formats that other programs draw (mermaid, dot)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.report.layout import Edge

if TYPE_CHECKING:
    from runner.config.model import Config, QueueConfig, TaskConfig


@dataclass(frozen=True, slots=True)
class Box:
    """One task or queue: its name and what else is worth a line."""

    key: str
    name: str
    kind: str  # "task" or "queue"
    notes: tuple[str, ...] = ()
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """Boxes and edges; styles of edges: "flow", "dead" (dead letters) and "after"."""

    title: str
    boxes: dict[str, Box]
    edges: list[Edge]


def graph_of(config: Config) -> Graph:
    """The graph of a file."""
    boxes: dict[str, Box] = {}
    edges: list[Edge] = []
    for task in config.tasks.values():
        boxes[f"t.{task.name}"] = Box(f"t.{task.name}", task.name, "task", _task_notes(task), not task.enabled)
    for queue in config.queues.values():
        boxes[f"q.{queue.name}"] = Box(f"q.{queue.name}", queue.name, "queue", _queue_notes(queue))
    for task in config.tasks.values():
        here = f"t.{task.name}"
        edges += [Edge(f"q.{queue}", here) for queue in task.inputs]
        edges += [Edge(here, f"q.{queue}") for queue in task.outputs]
        if task.dead:
            edges.append(Edge(here, f"q.{task.dead}", "dead"))
        edges += [Edge(f"t.{other}", here, "after") for other in task.after]
    return Graph(config.heading, boxes, [edge for edge in edges if {edge.tail, edge.head} <= set(boxes)])


def _task_notes(task: TaskConfig) -> tuple[str, ...]:
    count = task.workers.count
    kind = {"thread": ("thread", "threads"), "process": ("process", "processes"), None: ("worker", "workers")}
    notes = [f"{count} {kind[task.mode][count != 1]}"]
    if task.call != task.name:
        notes.insert(0, task.call)
    return (*notes, "not enabled") if not task.enabled else tuple(notes)


def _queue_notes(queue: QueueConfig) -> tuple[str, ...]:
    notes = [str(queue.size)] if queue.size != 1000 else []
    notes += [queue.fanout] if queue.fanout else []
    notes += ["loop"] if queue.loop else []
    return tuple(notes + ([queue.full] if queue.full != "wait" else []))


# -- for other programs -----------------------------------------------------------------------


def mermaid(graph: Graph) -> str:
    """A flowchart for Mermaid, as GitHub and GitLab draw it in Markdown."""
    ids = {key: f"n{number}" for number, key in enumerate(graph.boxes)}
    lines = ["flowchart TD"]
    for box in graph.boxes.values():
        text = "<br/>".join(map(_mermaid_text, (box.name, *box.notes)))
        lines.append(f"    {ids[box.key]}" + (f'["{text}"]' if box.kind == "task" else f'(["{text}"])'))
    arrows = {"flow": "-->", "dead": "-. dead .->", "after": "-. after .->"}
    lines += [f"    {ids[edge.tail]} {arrows[edge.style]} {ids[edge.head]}" for edge in graph.edges]
    return "\n".join(lines)


def _mermaid_text(text: str) -> str:
    return "".join(char if char.isalnum() or char in " _-.:" else f"#{ord(char)};" for char in text)


def dot(graph: Graph) -> str:
    """A digraph for Graphviz."""
    lines = [
        "digraph {",
        f"    label={_dot_text(graph.title)}; labelloc=t;",
        '    node [fontname="sans-serif"]; edge [fontname="sans-serif", fontsize=10];',
    ]
    for box in graph.boxes.values():
        text = _dot_text("\n".join((box.name, *box.notes)))
        shape = 'shape=box, style="rounded"' if box.kind == "task" else "shape=cds"
        lines.append(f"    {_dot_text(box.key)} [label={text}, {shape}];")
    styles = {"flow": "", "dead": ' [style=dashed, label="dead"]', "after": ' [style=dotted, label="after"]'}
    lines += [f"    {_dot_text(edge.tail)} -> {_dot_text(edge.head)}{styles[edge.style]};" for edge in graph.edges]
    return "\n".join([*lines, "}"])


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def listed(graph: Graph) -> str:
    """The graph as lines, for when a drawing has no room: every task with what leads to it and from it."""
    return "\n".join(_line(graph, box) for box in graph.boxes.values() if box.kind == "task")


def _line(graph: Graph, box: Box) -> str:
    def names(end: str, at: str, style: str) -> str:
        found = [edge for edge in graph.edges if getattr(edge, at) == box.key and edge.style == style]
        return ", ".join(graph.boxes[getattr(edge, end)].name for edge in found)

    notes = f" ({', '.join(box.notes)})" if box.notes else ""
    before, behind = names("tail", "head", "flow"), names("head", "tail", "flow")
    line = (f"{before} -> " if before else "") + f"[{box.name}]{notes}" + (f" -> {behind}" if behind else "")
    dead, after = names("head", "tail", "dead"), names("tail", "head", "after")
    more = ([f"dead letters to {dead}"] if dead else []) + ([f"after {after}"] if after else [])
    return line + (f"   {'; '.join(more)}" if more else "")
