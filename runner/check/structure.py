"""What the file alone says: queues with two ends, cycles, keys that contradict each other. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.check import cycles
from runner.config.problems import Problem, name
from runner.config.value_types import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.config.model import Config, Place, TaskConfig

#: Variables that the interpreter, the linker or the C library reads when a program starts, and then never again.
_AT_START = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_TUNABLES")
_LATER = {"PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT"}
#: More processes than this for each core are a slip more often than a wish.
_MANY = 8


def findings(config: Config) -> Iterator[Problem]:
    """Every problem of the graph and of keys that do not fit each other."""
    graph = Graph(config)
    yield from _ends(config, graph)
    yield from cycles.findings(config, graph)
    for task in graph.tasks.values():
        if task.mode == "thread":
            yield from thread_problems(config, task, "but runs in threads")
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
            for queue in self.written(task):
                self.writers.setdefault(queue, []).append(task.name)
            for queue in task.inputs:
                self.readers.setdefault(queue, []).append(task.name)
        for queue in {*self.writers, *self.readers}:  # also those of a misspelt `[queue.NAME]`
            self.writers.setdefault(queue, [])
            self.readers.setdefault(queue, [])
        unknown = {
            key for word in self.tasks for key in ("outputs", "dead", "inputs") if config.hole("tasks", word, key)
        }
        #: Whether every writer, every reader is known: a reported mistake must not cause a second one.
        self.all_writers = not unknown & {"outputs", "dead"} and not config.hole("tasks")
        self.all_readers = "inputs" not in unknown and not config.hole("tasks")

    @staticmethod
    def written(task: TaskConfig) -> list[str]:
        """The queues that a task writes, dead letters included."""
        return list(dict.fromkeys((*task.outputs, *([task.dead] if task.dead else []))))


def place_of(config: Config, task: str, key: str, *more: str) -> Place:
    """Where a task's key stands: in its own table, else in the defaults, else the task itself."""
    own = config.places.get(("tasks", task, key, *more))
    return own or config.places.get(("defaults", "task", key)) or config.place("tasks", task, key)


def own(config: Config, task: str, *key: str) -> bool:
    """Whether the task's own table has the key; a default that does not fit one task is no mistake."""
    return config.places.get(("tasks", task, *key)) is not None


# -- queues -----------------------------------------------------------------------------------


def _ends(config: Config, graph: Graph) -> Iterator[Problem]:
    disabled = [task for task in config.tasks.values() if not task.enabled]
    for queue, settings in config.queues.items():
        place, writers, readers = config.place("queues", queue), graph.writers[queue], graph.readers[queue]
        idle = [task.name for task in disabled if queue in _touched(task)]
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


# -- keys of a task ---------------------------------------------------------------------------


def thread_problems(config: Config, task: TaskConfig, why: str) -> Iterator[Problem]:
    """Keys that a task in threads cannot have; `why` says where its mode comes from."""
    say = 'say `mode = "process"`, or leave'
    if task.timeout is not None:
        text = f"task {name(task.name)} has a `timeout`, {why}; a thread cannot be killed"
        yield Problem("E209", text, place_of(config, task.name, "timeout"), hint=f"{say} `timeout` out")
    if task.env and own(config, task.name, "env"):
        text = f"task {name(task.name)} has an `env`, {why}; threads share the environment of the whole run"
        yield Problem("E214", text, place_of(config, task.name, "env"), hint=f"{say} `env` out")


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
    for task in graph.tasks.values():
        programs = task.call in {"shell", "std.shell"}  # nothing else is meant by their `env`
        for word in () if task.mode == "thread" or programs else task.env:
            if word.startswith(_AT_START) and word not in _LATER and own(config, task.name, "env", word):
                text = f"{name(word)} in the `env` of task {name(task.name)} counts for programs that its workers start"
                hint = f"the workers have started by then: set {name(word)} for runner itself"
                place = config.place("tasks", task.name, "env", word)
                yield Problem("W408", f"{text}, not for the workers", place, "warning", hint)
    most, there = _MANY * cores(), [task for task in graph.tasks.values() if task.mode != "thread"]
    for task in there:
        if task.workers.count > most and own(config, task.name, "workers"):
            text = f"task {name(task.name)} wants {task.workers.count} processes on {cores()} cores"
            hint = '`workers = "auto"` is one for each core'
            yield Problem("W403", text, config.place("tasks", task.name, "workers"), "warning", hint)
