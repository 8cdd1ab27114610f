"""Checks that need the file alone: queues with two ends, cycles, keys that contradict each other. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.check import cycles
from runner.check.graph import TaskGraph
from runner.config.value_types import usable_cores
from runner.problems import Problem, quote_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.model import Config, TaskConfig
    from runner.problems import Location

#: Variables that the interpreter, the linker or the C library reads when a program starts, and then never again.
_AT_START = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_TUNABLES")
_LATER = {"PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT"}
#: More processes than this for each core are a slip more often than a wish.
_MANY = 8


def find_structure_problems(config: Config) -> Iterator[Problem]:
    """Yield every problem of the graph and of keys that do not fit each other."""
    graph = TaskGraph(config)
    yield from _check_ends(config, graph)
    yield from cycles.find_cycle_problems(config, graph)
    for task in graph.tasks.values():
        if task.mode == "thread":
            yield from thread_problems(config, task, "but runs in threads")
        yield from _find_unused_keys(config, task)
        yield from _check_ports(config, task)
    yield from _check_dead_queues(config, graph)
    yield from _find_warnings(config, graph)


def location_of_key(config: Config, task: str, key: str, *more: str) -> Location:
    """Return the location of a task's key: in its own table, else in the defaults, else the task itself."""
    own = config.locations.get(("tasks", task, key, *more))
    return own or config.locations.get(("defaults", "task", key)) or config.place("tasks", task, key)


def has_own_key(config: Config, task: str, *key: str) -> bool:
    """Return True if the task's own table has the key; a default that does not fit one task is not a mistake."""
    return config.locations.get(("tasks", task, *key)) is not None


# -- queues -----------------------------------------------------------------------------------


def _check_ends(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    disabled = [task for task in config.tasks.values() if not task.enabled]
    for queue, settings in config.queues.items():
        place, writers, readers = config.place("queues", queue), graph.writers[queue], graph.readers[queue]
        idle = [task.name for task in disabled if queue in _touched_queues(task)]
        why = f"`{idle[0]}` is not enabled" if idle else ""
        if not writers and not readers:
            if not idle and graph.all_writers and graph.all_readers:
                yield Problem("E204", f"no task writes queue {quote_name(queue)}, and none reads it", place)
        elif not writers and graph.all_writers:
            wanted = why or f"a task writes it with `outputs = [{_quote_string(queue)}]`"
            yield Problem("E204", f"no task writes queue {quote_name(queue)}", place, hint=wanted)
        elif not readers and graph.all_readers:
            wanted = why or f"a task reads it with `inputs = [{_quote_string(queue)}]`"
            yield Problem("E205", f"no task reads queue {quote_name(queue)}", place, hint=wanted)
        if len(readers) > 1 and settings.fanout is None and not config.is_unknown("queues", queue, "fanout"):
            text = f"queue {quote_name(queue)} is read by {_list_names(readers)}, but `fanout` is not set"
            hint = '`fanout = "share"`: they compete; `fanout = "copy"`: each gets every item'
            yield Problem("E206", text, place, hint=hint)


def _touched_queues(task: TaskConfig) -> tuple[str | None, ...]:
    return (*task.inputs, *task.outputs, task.dead)


def _quote_string(word: str) -> str:
    return f'"{word}"'


def _list_names(words: list[str]) -> str:
    return ", ".join(quote_name(word) for word in words[:-1]) + f" and {quote_name(words[-1])}"


def _check_dead_queues(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    """Check that a queue of dead letters carries nothing else: its readers expect a `DeadLetter`."""
    dead = {task.dead: task.name for task in graph.tasks.values() if task.dead}
    for task in graph.tasks.values():
        for queue in task.outputs:
            if queue in dead:
                text = f"task {quote_name(task.name)} writes items to {quote_name(queue)}, which holds the dead"
                text += f" letters of task {quote_name(dead[queue])}"
                place, hint = _output_place(config, task, queue), "give the dead letters their own queue"
                yield Problem("E212", text, place, hint=hint)


def _output_place(config: Config, task: TaskConfig, queue: str) -> Location:
    for port in task.ports:
        if queue in port.queues:
            spot = str(port.queues.index(queue))
            for path in ((port.name, spot), (port.name,), (spot,)):
                found = config.locations.get(("tasks", task.name, "outputs", *path))
                if found is not None:
                    return found
    return config.place("tasks", task.name, "outputs")


# -- keys of a task ---------------------------------------------------------------------------


def thread_problems(config: Config, task: TaskConfig, why: str) -> Iterator[Problem]:
    """Yield keys that a task in threads cannot have; `why` says where its mode comes from."""
    say = 'say `mode = "process"`, or leave'
    if task.timeout is not None:
        text = f"task {quote_name(task.name)} has a `timeout`, {why}; a thread cannot be killed"
        yield Problem("E209", text, location_of_key(config, task.name, "timeout"), hint=f"{say} `timeout` out")
    if task.env and has_own_key(config, task.name, "env"):
        text = f"task {quote_name(task.name)} has an `env`, {why}; threads share the environment of the whole run"
        yield Problem("E214", text, location_of_key(config, task.name, "env"), hint=f"{say} `env` out")


def _find_unused_keys(config: Config, task: TaskConfig) -> Iterator[Problem]:
    """Yield keys that would be ignored: nothing in a file is ignored in silence."""
    place = config.place
    if config.is_unknown("tasks", task.name, "inputs"):
        return
    if not task.inputs:
        for key in ("batch", "ordered", "dead"):
            if getattr(task, key) and has_own_key(config, task.name, key):
                text = f"`{key}` of task {quote_name(task.name)} has no effect: the task has no inputs"
                yield Problem("E210", text, place("tasks", task.name, key))
    elif task.dead and task.on_error == "skip" and has_own_key(config, task.name, "dead"):
        text = f'`dead` of task {quote_name(task.name)} has no effect: `on_error = "skip"` drops what fails'
        yield Problem("E210", text, place("tasks", task.name, "dead"))


def _check_ports(config: Config, task: TaskConfig) -> Iterator[Problem]:
    for port in task.ports:
        if not port.queues:
            text = f"port {quote_name(port.name)} of task {quote_name(task.name)} leads to no queue"
            yield Problem("E212", text, config.place("tasks", task.name, "outputs", port.name))


# -- warnings ---------------------------------------------------------------------------------


def _find_warnings(config: Config, graph: TaskGraph) -> Iterator[Problem]:
    for param in config.unused_params:
        yield Problem("W401", f"param {quote_name(param)} is used nowhere", config.place("params", param), "warning")
    for task in graph.tasks.values():
        programs = task.call in {"shell", "std.shell"}  # nothing else is meant by their `env`
        for word in () if task.mode == "thread" or programs else task.env:
            if word.startswith(_AT_START) and word not in _LATER and has_own_key(config, task.name, "env", word):
                named = quote_name(task.name)
                text = f"{quote_name(word)} in the `env` of task {named} counts for programs that its workers start"
                hint = f"the workers have started by then: set {quote_name(word)} for runner itself"
                place = config.place("tasks", task.name, "env", word)
                yield Problem("W408", f"{text}, not for the workers", place, "warning", hint)
    most, there = _MANY * usable_cores(), [task for task in graph.tasks.values() if task.mode != "thread"]
    for task in there:
        if task.workers.count > most and has_own_key(config, task.name, "workers"):
            text = f"task {quote_name(task.name)} wants {task.workers.count} processes on {usable_cores()} cores"
            hint = '`workers = "auto"` is one for each core'
            yield Problem("W403", text, config.place("tasks", task.name, "workers"), "warning", hint)
