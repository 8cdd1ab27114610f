"""What the file alone says: queues with two ends, cycles, keys that contradict each other. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config.kinds import cores
from runner.config.problems import Problem, name
from runner.topology import strongly_connected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runner.config.model import Config, Place, TaskConfig

#: More processes than this for each core are a slip more often than a wish.
_MANY = 8


def findings(config: Config) -> Iterator[Problem]:
    """Every problem of the graph and of keys that do not fit each other."""
    graph = Graph(config)
    yield from _ends(config, graph)
    yield from _cycles(config, graph)
    yield from _waiting(config, graph)
    for task in graph.tasks.values():
        yield from _timeout(config, task)
        yield from _without_effect(config, task)
        yield from _ports(config, task)
    yield from _letters(config, graph)
    yield from _warnings(config, graph)


class Graph:
    """Who writes and who reads each queue, among the tasks that run."""

    def __init__(self, config: Config) -> None:
        self.tasks = {word: task for word, task in config.tasks.items() if task.enabled}
        self.writers: dict[str, list[str]] = {queue: [] for queue in config.queues}
        self.readers: dict[str, list[str]] = {queue: [] for queue in config.queues}
        for task in self.tasks.values():
            for queue in dict.fromkeys((*task.outputs, *([task.dead] if task.dead else []))):
                self.writers.setdefault(queue, []).append(task.name)
            for queue in task.inputs:
                self.readers.setdefault(queue, []).append(task.name)
        unknown = {
            key for word in self.tasks for key in ("outputs", "dead", "inputs") if config.hole("tasks", word, key)
        }
        #: Whether every writer, every reader is known: a reported mistake must not cause a second one.
        self.all_writers = not unknown & {"outputs", "dead"} and not config.hole("tasks")
        self.all_readers = "inputs" not in unknown and not config.hole("tasks")

    def downstream(self, task: str) -> Iterator[tuple[str, str]]:
        """(queue, task that reads it) for everything this task writes."""
        for queue, writers in self.writers.items():
            if task in writers:
                for reader in self.readers.get(queue, ()):
                    yield queue, reader


def place_of(config: Config, task: str, key: str, *more: str) -> Place:
    """Where a task's key stands: in its own table, else in the defaults, else the task itself."""
    own = config.places.get(("tasks", task, key, *more))
    return own or config.places.get(("defaults", "task", key)) or config.place("tasks", task, key)


def own(config: Config, task: str, key: str) -> bool:
    """Whether the task's own table has the key; a default that does not fit one task is no mistake."""
    return config.places.get(("tasks", task, key)) is not None


# -- queues -----------------------------------------------------------------------------------


def _ends(config: Config, graph: Graph) -> Iterator[Problem]:
    for queue, settings in config.queues.items():
        place, writers, readers = config.place("queues", queue), graph.writers[queue], graph.readers[queue]
        idle = [task.name for task in config.tasks.values() if not task.enabled and queue in _touched(task)]
        why = f"`{idle[0]}` is not enabled" if idle else ""
        if not writers and not readers:
            if not idle and graph.all_writers and graph.all_readers:
                yield Problem("E204", f"no task writes queue {name(queue)}, and none reads it", place)
        elif not writers and graph.all_writers:
            wanted = why or f"a task writes it with `outputs = [{_quoted(queue)}]`"
            yield Problem("E204", f"no task writes queue {name(queue)}", place, hint=wanted)
        elif not readers and graph.all_readers:
            wanted = why or f"a task reads it with `inputs = [{_quoted(queue)}]`"
            yield Problem("E205", f"no task reads queue {name(queue)}", place, hint=wanted)
        if len(readers) > 1 and settings.fanout is None and not config.hole("queues", queue, "fanout"):
            both = _listed(readers)
            hint = '`fanout = "share"`: they compete; `fanout = "copy"`: each gets every item'
            yield Problem("E206", f"queue {name(queue)} is read by {both}, and has no `fanout`", place, hint=hint)


def _touched(task: TaskConfig) -> tuple[str | None, ...]:
    return (*task.inputs, *task.outputs, task.dead)


def _quoted(word: str) -> str:
    return f'"{word}"'


def _listed(words: list[str]) -> str:
    return ", ".join(name(word) for word in words[:-1]) + f" and {name(words[-1])}"


def _letters(config: Config, graph: Graph) -> Iterator[Problem]:
    """A queue of dead letters carries nothing else: its readers expect a `DeadLetter`."""
    dead = {task.dead: task.name for task in graph.tasks.values() if task.dead}
    for task in graph.tasks.values():
        for queue in task.outputs:
            if queue in dead:
                text = f"task {name(task.name)} writes items to {name(queue)}, which holds the dead letters of task"
                place = _output_place(config, task, queue)
                yield Problem(
                    "E212", f"{text} {name(dead[queue])}", place, hint="give the dead letters their own queue"
                )


def _output_place(config: Config, task: TaskConfig, queue: str) -> Place:
    for port in task.ports:
        if queue in port.queues:
            spot = str(port.queues.index(queue))
            for path in ((port.name, spot), (port.name,), (spot,)):
                found = config.places.get(("tasks", task.name, "outputs", *path))
                if found is not None:
                    return found
    return config.place("tasks", task.name, "outputs")


# -- cycles -----------------------------------------------------------------------------------


def _cycles(config: Config, graph: Graph) -> Iterator[Problem]:
    """Every cycle without a `loop` queue: each is named once, and taken as closed to find the next one."""
    closed = {
        queue for queue, settings in config.queues.items() if settings.loop or config.hole("queues", queue, "loop")
    }
    edges = {task: [edge for edge in graph.downstream(task) if edge[0] not in closed] for task in graph.tasks}
    for _ in range(len(config.queues)):
        cycle = find_cycle(edges)
        if cycle is None:
            return
        queue = cycle[-1][0]
        way = " -> ".join([cycle[-1][1], *(word for edge in cycle for word in edge)])
        text = f"a cycle without `loop`: {_short(way)}"
        yield Problem(
            "E207", text, config.place("queues", queue), hint="say `loop = true` for the queue that closes it"
        )
        edges = {task: [edge for edge in out if edge[0] != queue] for task, out in edges.items()}


def find_cycle(edges: Mapping[str, list[tuple[str, str]]]) -> list[tuple[str, str]] | None:
    """The shortest cycle through the first node that is on one: its edges (label, target), or None.

    >>> find_cycle({"a": [("q", "b")], "b": [("r", "a")]})
    [('q', 'b'), ('r', 'a')]
    """
    targets = {node: [target for _, target in out] for node, out in edges.items()}
    looped = {node for node, out in targets.items() if node in out}
    inside = {node for part in strongly_connected(targets) if len(part) > 1 for node in part} | looped
    start = next((node for node in edges if node in inside), None)
    if start is None:
        return None
    ways: dict[str, list[tuple[str, str]]] = {}
    level: list[tuple[str, list[tuple[str, str]]]] = [(start, [])]
    while level:
        further = []
        for node, way in level:
            for label, target in edges[node]:
                if target == start:
                    return [*way, (label, target)]
                if target not in ways:
                    ways[target] = [*way, (label, target)]
                    further.append((target, ways[target]))
        level = further
    return None


def _short(way: str) -> str:
    return way if len(way) <= 300 else way[:140] + " ... " + way[-140:]


def _waiting(config: Config, graph: Graph) -> Iterator[Problem]:
    """Tasks that wait for each other: through `after`, or because the end of one needs the end of the other.

    Nodes are the start and the end of each task; an edge leads to what must have happened before.
    """
    edges: dict[str, list[tuple[str, str]]] = {}
    for task in graph.tasks.values():
        begin, end = f"<{task.name}", f">{task.name}"
        edges[begin] = [
            (f"{task.name} after {other}", ("<" if state == "started" else ">") + other)
            for other, state in task.after.items()
            if other in graph.tasks
        ]
        feeders = dict.fromkeys((q, writer) for q in task.inputs for writer in graph.writers.get(q, ()))
        edges[end] = [(f"{task.name} reads {queue} of {other}", f">{other}") for queue, other in feeders]
        edges[end].insert(0, ("", begin))
    parts = strongly_connected({node: [target for _, target in out] for node, out in edges.items()})
    for part in parts:
        inside = {node: [edge for edge in edges[node] if edge[1] in part] for node in edges if node in part}
        first = next((node for node, out in inside.items() if node[0] == "<" and out), None)
        if first is None:
            continue  # a cycle of queues alone, which `loop` is about
        cycle = find_cycle({first: inside[first], **inside})
        if cycle is not None:
            text = "tasks that wait for each other: " + _short(", ".join(label for label, _ in cycle if label))
            yield Problem("E208", text, config.place("tasks", first[1:], "after"))


# -- keys of a task ---------------------------------------------------------------------------


def timeout_problem(config: Config, task: TaskConfig, why: str) -> Problem:
    """E209: `why` says where the mode comes from."""
    text = f"task {name(task.name)} has a `timeout`, {why}; a thread cannot be killed"
    hint = 'say `mode = "process"`, or leave `timeout` out'
    return Problem("E209", text, place_of(config, task.name, "timeout"), hint=hint)


def _timeout(config: Config, task: TaskConfig) -> Iterator[Problem]:
    if task.timeout is not None and task.mode == "thread":
        yield timeout_problem(config, task, "but runs in threads")


def _without_effect(config: Config, task: TaskConfig) -> Iterator[Problem]:
    """Keys that would be ignored: nothing in a file is ignored in silence."""
    place = config.place
    if config.hole("tasks", task.name, "inputs"):
        return
    if not task.inputs:
        for key in ("batch", "ordered", "dead"):
            if getattr(task, key) and own(config, task.name, key):
                text = f"`{key}` of task {name(task.name)} has no effect: the task has no inputs"
                yield Problem("E210", text, place("tasks", task.name, key))
    elif task.dead and task.on_error == "skip" and own(config, task.name, "dead"):
        text = f'`dead` of task {name(task.name)} has no effect: `on_error = "skip"` drops what fails'
        yield Problem("E210", text, place("tasks", task.name, "dead"))


def _ports(config: Config, task: TaskConfig) -> Iterator[Problem]:
    for port in task.ports:
        if not port.queues:
            text = f"port {name(port.name)} of task {name(task.name)} leads to no queue"
            yield Problem("E212", text, config.place("tasks", task.name, "outputs", port.name))


# -- warnings ---------------------------------------------------------------------------------


def _warnings(config: Config, graph: Graph) -> Iterator[Problem]:
    for param in config.unused:
        yield Problem("W401", f"param {name(param)} is used nowhere", config.place("params", param), "warning")
    for queue, settings in config.queues.items():
        if config.run.durable and settings.full != "wait":
            text = f"the run is durable, but queue {name(queue)} drops items when it is full"
            yield Problem("W402", text, config.place("queues", queue, "full"), "warning")
    yield from _idle_loops(config, graph)
    most, there = _MANY * cores(), [task for task in graph.tasks.values() if task.mode != "thread"]
    for task in there:
        if task.workers.count > most and own(config, task.name, "workers"):
            text = f"task {name(task.name)} wants {task.workers.count} processes on {cores()} cores"
            hint = '`workers = "auto"` is one for each core'
            yield Problem("W403", text, config.place("tasks", task.name, "workers"), "warning", hint)


def _idle_loops(config: Config, graph: Graph) -> Iterator[Problem]:
    edges = {task: [reader for _, reader in graph.downstream(task)] for task in graph.tasks}
    part_of = {task: number for number, part in enumerate(strongly_connected(edges)) for task in part}
    for queue, settings in config.queues.items():
        pairs = [(writer, reader) for writer in graph.writers[queue] for reader in graph.readers[queue]]
        if (
            settings.loop
            and pairs
            and graph.all_writers
            and graph.all_readers
            and not any(part_of[writer] == part_of[reader] for writer, reader in pairs)
        ):
            text = f"queue {name(queue)} closes no cycle, and with `loop` it has no bound"
            yield Problem("W404", text, config.place("queues", queue, "loop"), "warning", "leave `loop` out")
