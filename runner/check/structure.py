"""Checks that need the file alone: queues with two ends, cycles, keys that contradict each other. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

from runner.cgroups import usable_cpus
from runner.model import CLUSTER_ENGINES
from runner.problems import Problem, quote_name
from runner.topology import TaskNode, Topology, strongly_connected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runner.model import Config, TaskConfig
    from runner.problems import Location

#: Variables that the interpreter, the linker or the C library reads when a program starts, and then never again.
_AT_START = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_TUNABLES")
_LATER = {"PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT"}
#: More processes than this for each core are a slip more often than a wish.
_MANY = 8
#: So many cycles are named; finding the next one means to look at the whole graph again.
_MOST_CYCLES = 10


def find_structure_problems(config: Config) -> Iterator[Problem]:
    """Yield every problem of the graph and of keys that do not fit each other."""
    tasks = [task for task in config.tasks.values() if task.enabled]
    graph = Topology(TaskNode(task.name, task.inputs, task.outputs_and_dead) for task in tasks)
    yield from _check_ends(config, graph)
    yield from _find_unclosed_cycles(config, graph)
    yield from _find_waiting_tasks(config, graph)
    for task in tasks:
        if task.mode == "thread":
            yield from thread_problems(config, task, "but runs in threads")
        yield from _find_unused_keys(config, task)
    yield from _check_dead_queues(config, tasks)
    yield from _check_drops_and_orders(config, tasks)
    yield from _check_lanes(config, tasks)
    yield from _find_warnings(config, tasks)


def _location_of_key(config: Config, task: str, key: str) -> Location:
    """Return the location of a task's key: in its own table, else in the defaults, else the task itself."""
    own = config.locations.get(("tasks", task, key))
    return own or config.locations.get(("defaults", "task", key)) or config.place("tasks", task, key)


def _has_own_key(config: Config, task: str, *key: str) -> bool:
    """Return True if the task's own table has the key; a default that does not fit one task is not a mistake."""
    return config.locations.get(("tasks", task, *key)) is not None


def is_set_in_file(config: Config, task: str, key: str) -> bool:
    """Return True if the file has this key of a task, in its own table or for all tasks."""
    tables = (config.filled_tables.get("tasks", {}).get(task), config.filled_tables.get("defaults", {}).get("task"))
    return any(isinstance(table, dict) and key in table for table in tables)


def _check_ends(config: Config, graph: Topology) -> Iterator[Problem]:
    # A reported mistake must not cause a second one: what is not there may be what is misspelt.
    unknown = {
        key for task in graph.nodes for key in ("outputs", "dead", "inputs") if config.is_unknown("tasks", task, key)
    }
    all_writers = not unknown & {"outputs", "dead"} and not config.is_unknown("tasks")
    all_readers = "inputs" not in unknown and not config.is_unknown("tasks")
    disabled = [task for task in config.tasks.values() if not task.enabled]
    for queue, settings in config.queues.items():
        place = config.place("queues", queue)
        writers, readers = graph.writers.get(queue, []), graph.readers.get(queue, [])
        idle = [task.name for task in disabled if queue in (*task.inputs, *task.outputs_and_dead)]
        why = f"`{idle[0]}` is not enabled" if idle else ""
        named = quote_name(queue)
        if not writers and not readers:
            if not idle and all_writers and all_readers:
                yield Problem("E204", f"no task writes queue {named}, and none reads it", place)
        elif not writers and all_writers:
            hint = why or f'a task writes it with `outputs = ["{queue}"]`'
            yield Problem("E204", f"no task writes queue {named}", place, hint=hint)
        elif not readers and all_readers:
            hint = why or f'a task reads it with `inputs = ["{queue}"]`'
            yield Problem("E205", f"no task reads queue {named}", place, hint=hint)
        if len(readers) > 1 and settings.fanout is None and not config.is_unknown("queues", queue, "fanout"):
            names = ", ".join(map(quote_name, readers[:-1])) + f" and {quote_name(readers[-1])}"
            text = f"queue {named} is read by {names}, but `fanout` is not set"
            hint = '`fanout = "share"`: they compete; `fanout = "copy"`: each gets every item'
            yield Problem("E206", text, place, hint=hint)
        on_cycle = not set(map(graph.cycle_of, writers)).isdisjoint(map(graph.cycle_of, readers))
        if settings.loop and not on_cycle and writers and readers and all_writers and all_readers:
            text = f"queue {named} has `loop = true` but is not part of a cycle, so it is unbounded"
            yield Problem("W404", text, config.place("queues", queue, "loop"), "warning", "leave `loop` out")


def _check_dead_queues(config: Config, tasks: list[TaskConfig]) -> Iterator[Problem]:
    """Check that a queue of dead letters carries nothing else: its readers expect a `DeadLetter`."""
    dead = {task.dead: task.name for task in tasks if task.dead}
    for task in tasks:
        for queue in task.outputs:
            if queue in dead:
                text = f"task {quote_name(task.name)} writes items to {quote_name(queue)}, which holds the dead"
                text += f" letters of task {quote_name(dead[queue])}"
                port = next(port for port in task.ports if queue in port.queues)
                named = (port.name,) if _has_own_key(config, task.name, "outputs", port.name) else ()
                place = config.place("tasks", task.name, "outputs", *named, str(port.queues.index(queue)))
                yield Problem("E212", text, place, hint="give the dead letters their own queue")


def _check_drops_and_orders(config: Config, tasks: list[TaskConfig]) -> Iterator[Problem]:
    """Check that a queue drops nothing that must not be lost, and that its order fits those who read it."""
    dead = {task.dead: task.name for task in tasks if task.dead}
    ordered = {queue: task.name for task in tasks if task.ordered for queue in task.inputs}
    for name, queue in config.queues.items():
        named, place = quote_name(name), config.place("queues", name, "full")
        if queue.drops and name in dead:
            text = f"queue {named} drops items, and holds the dead letters of task {quote_name(dead[name])}"
            yield Problem("E215", text, place, hint="leave `full` out: what has failed must not be lost as well")
        elif queue.drops and queue.loop:
            text = f"queue {named} has `loop = true`, so it has no bound, and drops items when it is full"
            yield Problem("E215", text, place, hint="leave `full` out, or `loop`")
        elif queue.drops and config.run.durable:
            text = f"queue {named} drops items, and the run is durable: what it drops does not come back"
            yield Problem("W409", text, place, "warning", '`full = "wait"` loses nothing')
        place = config.place("queues", name, "order")
        if queue.is_ranked and name in ordered:
            text = f'queue {named} has `order = "{queue.order}"`, and task {quote_name(ordered[name])}, which reads it,'
            text += " has `ordered = true`: results in the order in which the items came"
            yield Problem("E216", text, place, hint="leave one of them out")
        elif queue.order == "priority" and name in dead:
            text = f'queue {named} has `order = "priority"`, and holds the dead letters of task'
            yield Problem("E216", f"{text} {quote_name(dead[name])}, which have none", place, hint="leave `order` out")


def _check_lanes(config: Config, tasks: list[TaskConfig]) -> Iterator[Problem]:
    """Check that nothing else decides which of a lane's items is next, or which of them is not there."""
    dead = {task.dead: task.name for task in tasks if task.dead}
    ordered = {queue: task.name for task in tasks if task.ordered for queue in task.inputs}
    for name, queue in config.queues.items():
        text, place = f'queue {quote_name(name)} has `lane = "{queue.lane}"`', config.place("queues", name, "lane")
        if not queue.lane:
            continue
        if name in dead:
            text += f" and holds the dead letters of task {quote_name(dead[name])}: a dead letter is in no lane"
            yield Problem("E220", text, place, hint="leave `lane` out")
        if queue.is_ranked:
            text += f' and `order = "{queue.order}"`: the items of a lane keep the order in which they came'
            yield Problem("E220", text, place, hint="leave one of them out")
        elif queue.drops:
            text += f' and `full = "{queue.full}"`: an item may need those before it in its lane'
            yield Problem("E220", text, place, hint='`full = "wait"` drops none')
        elif name in ordered:
            text += (
                f", and task {quote_name(ordered[name])}, which reads it, has `ordered = true`: while one lane waits"
            )
            text += " the others go on, and results leave in another order"
            yield Problem("E220", text, place, hint="leave one of them out")


def _find_unclosed_cycles(config: Config, graph: Topology) -> Iterator[Problem]:
    """Yield every cycle without a `loop` queue: each is named once, and taken as closed to find the next one."""
    edges = {f"t{name}": [f"q{queue}" for queue in dict.fromkeys(node.outputs)] for name, node in graph.nodes.items()}
    edges |= {f"q{queue}": [f"t{reader}" for reader in readers] for queue, readers in graph.readers.items()}
    for queue, settings in config.queues.items():
        if settings.loop or config.is_unknown("queues", queue, "loop"):
            edges.pop(f"q{queue}", None)
    for _ in range(_MOST_CYCLES):
        cycle = find_cycle(edges)
        if cycle is None:
            return
        closing = cycle[-1]
        text = f"a cycle without `loop`: {_shorten_path(' -> '.join(node[1:] for node in [*cycle, cycle[0]]))}"
        hint = "say `loop = true` for the queue that closes it"
        yield Problem("E207", text, config.place("queues", closing[1:]), hint=hint)
        del edges[closing]


def find_cycle(edges: Mapping[str, list[str]]) -> list[str] | None:
    """Return the shortest cycle through the first node that is on one; None if there is no cycle.

    >>> find_cycle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]})
    ['b', 'd']
    """
    known = {node: [target for target in targets if target in edges] for node, targets in edges.items()}
    inside = {node for part in strongly_connected(known) if len(part) > 1 for node in part}
    inside |= {node for node, targets in known.items() if node in targets}
    start = next((node for node in edges if node in inside), None)
    if start is None:
        return None
    came: dict[str, str] = {}
    left = deque([start])
    while start not in came:  # it is on a cycle, so it is met again
        node = left.popleft()
        fresh = [target for target in known[node] if target not in came]
        came |= dict.fromkeys(fresh, node)
        left += fresh
    back = [start]
    while (node := came[back[-1]]) != start:
        back.append(node)
    return [start, *back[:0:-1]]


def _shorten_path(way: str) -> str:
    return way if len(way) <= 300 else way[:140] + " ... " + way[-140:]


def _find_waiting_tasks(config: Config, graph: Topology) -> Iterator[Problem]:
    """Yield tasks that wait for each other: through `after`, or because the end of one needs the end of the other.

    Nodes are the start (`<a`) and the end (`>a`) of each task and the end of each queue (`=q`); an edge leads to what
    must have happened before.
    """
    edges = {f"={queue}": [f">{writer}" for writer in writers] for queue, writers in graph.writers.items()}
    starts = [f"<{task}" for task in graph.nodes]
    for task in map(config.tasks.__getitem__, graph.nodes):
        waits = [(other, state) for other, state in task.after.items() if other in graph.nodes]
        edges[f"<{task.name}"] = [("<" if state == "started" else ">") + other for other, state in waits]
        edges[f">{task.name}"] = [f"<{task.name}", *(f"={queue}" for queue in task.inputs if f"={queue}" in edges)]
    part_of = {node: part for part in strongly_connected(edges) for node in part}
    told: set[tuple[str, ...]] = set()
    for start in starts:
        part = part_of[start]
        members = set(part)
        if part in told or not members.intersection(edges[start]):
            continue  # nothing that it waits for waits for it
        told.add(part)
        cycle = find_cycle({node: edges[node] for node in dict.fromkeys((start, *part))})
        if cycle is not None:
            text = "tasks that wait for each other: " + _shorten_path(_describe_waits(cycle))
            yield Problem("E208", text, config.place("tasks", start[1:], "after"))


def _describe_waits(cycle: list[str]) -> str:
    parts = []
    for node, before in itertools.pairwise([*cycle, cycle[0]]):
        if node[0] == "<":
            parts.append(f"{node[1:]} after {before[1:]}")
        elif before[0] == "=":
            parts.append(f"{node[1:]} reads {before[1:]} of ")
        elif node[0] == "=":
            parts[-1] += before[1:]
    return ", ".join(parts)


def thread_problems(config: Config, task: TaskConfig, why: str) -> Iterator[Problem]:
    """Yield keys that a task in threads cannot have; `why` says where its mode comes from."""
    say = 'say `mode = "process"`, or leave'
    if task.timeout is not None:
        text = f"task {quote_name(task.name)} has a `timeout`, {why}; a thread cannot be killed"
        yield Problem("E209", text, _location_of_key(config, task.name, "timeout"), hint=f"{say} `timeout` out")
    if task.env and _has_own_key(config, task.name, "env"):
        text = f"task {quote_name(task.name)} has an `env`, {why}; threads share the environment of the whole run"
        yield Problem("E214", text, _location_of_key(config, task.name, "env"), hint=f"{say} `env` out")
    if task.resources is not None and _has_own_key(config, task.name, "resources"):
        text = f"`resources` of task {quote_name(task.name)} has no effect: it runs in threads, which stay here"
        yield Problem("E210", text, config.place("tasks", task.name, "resources"), hint=f"{say} `resources` out")


def _find_unused_keys(config: Config, task: TaskConfig) -> Iterator[Problem]:
    """Yield keys that would be ignored, and ports without a queue: nothing in a file is ignored in silence."""
    named = quote_name(task.name)
    for port in task.ports:
        if not port.queues:
            place = config.place("tasks", task.name, "outputs", port.name)
            yield Problem("E212", f"port {quote_name(port.name)} of task {named} leads to no queue", place)
    if config.is_unknown("tasks", task.name, "inputs"):
        return
    unused: dict[str, str] = {}
    if not task.inputs:
        unused = dict.fromkeys(("batch", "ordered", "dead"), "the task has no inputs")
        unused |= {} if task.ports or config.is_unknown("tasks", task.name, "outputs") else {"key": "it has no outputs"}
    else:
        unused = {"key": "the task has inputs"}
        unused |= {"dead": '`on_error = "skip"` drops what fails'} if task.on_error == "skip" else {}
    if not task.inputs and _has_own_key(config, task.name, "workers"):
        written = config.filled_tables["tasks"][task.name].get("workers")
        if isinstance(written, str) and ".." in written:
            text = f'`workers = "{written}"` of task {named} has no effect: the task has no inputs'
            hint = "no items wait for it: give a number of workers, each of which makes all of its items"
            yield Problem("E210", text, config.place("tasks", task.name, "workers"), hint=hint)
    for key, why in unused.items():
        if getattr(task, key) and _has_own_key(config, task.name, key):
            text = f"`{key}` of task {named} has no effect: {why}"
            yield Problem("E210", text, config.place("tasks", task.name, key))


def _find_warnings(config: Config, tasks: list[TaskConfig]) -> Iterator[Problem]:
    for param in config.unused_params:
        yield Problem("W401", f"param {quote_name(param)} is used nowhere", config.place("params", param), "warning")
    yield from _find_batches_that_never_fill(config, tasks)
    most = _MANY * usable_cpus()
    for task in (task for task in tasks if task.mode != "thread"):
        named = quote_name(task.name)
        programs = task.call in {"shell", "std.shell"}  # nothing else is meant by their `env`
        for word in () if programs else task.env:
            if word.startswith(_AT_START) and word not in _LATER and _has_own_key(config, task.name, "env", word):
                text = f"{quote_name(word)} in the `env` of task {named} counts for programs that its workers start"
                hint = f"the workers have started by then: set {quote_name(word)} for runner itself"
                place = config.place("tasks", task.name, "env", word)
                yield Problem("W408", f"{text}, not for the workers", place, "warning", hint)
        on_other_machines = config.run.engine in CLUSTER_ENGINES
        if task.resources is not None and not on_other_machines and _has_own_key(config, task.name, "resources"):
            text = f"`resources` of task {named} is not heeded by the engine {quote_name(config.run.engine)}"
            hint = "it counts with the engines `agents` and `ray`, whose workers are placed by it"
            yield Problem("W410", text, config.place("tasks", task.name, "resources"), "warning", hint)
        wanted = task.least_workers or len(task.workers)  # of a range, no more compute than there are cores
        if not on_other_machines and wanted > most and _has_own_key(config, task.name, "workers"):
            text = f"task {named} wants {wanted} processes on {usable_cpus()} cores"
            hint = '`workers = "auto"` is one for each core'
            yield Problem("W403", text, config.place("tasks", task.name, "workers"), "warning", hint)


def _find_batches_that_never_fill(config: Config, tasks: list[TaskConfig]) -> Iterator[Problem]:
    """Yield a warning for each batch that is larger than what its queues may hold together."""
    for task in tasks:
        queues = [config.queues[name] for name in task.inputs if name in config.queues]
        if task.batch is None or not queues or any(queue.elastic or queue.loop for queue in queues):
            continue
        most = sum(queue.size for queue in queues)
        if task.batch.items > most:
            named = " and ".join(quote_name(queue.name) for queue in queues)
            bound = f"{named} {'holds' if len(queues) == 1 else 'hold'} {most:,} at most"
            text = f"a batch of task {quote_name(task.name)} never has {task.batch.items:,} items: {bound}"
            hint = "raise `size`, or leave it out: then the queue holds a batch"
            yield Problem("W411", text, _location_of_key(config, task.name, "batch"), "warning", hint)
