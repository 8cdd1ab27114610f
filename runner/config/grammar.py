"""The language of the file as ONE table: every key, its kind, its default, its range, and what it means.

`build` converts by it, the did-you-mean hints search it, and it is the source of references and of a JSON Schema.
Defaults are those of `model`, written as a file would say them; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable


class Key(Struct, frozen=True):
    """One key of a table. `kind` names a converter of `kinds`; `low` and `high` include their end."""

    name: str
    kind: str
    default: str = ""
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    table: str = ""
    required: bool = False


KeyTable = dict[str, Key]

#: Whole numbers stay below this: what is beyond is a slip or an attack, and C code under us counts in 64 bits.
MAX_COUNT = 10**15
MAX_WORKERS = 10_000
MAX_DURATION = 10 * 365 * 86400


def _table(*keys: Key) -> KeyTable:
    return {key.name: key for key in keys}


def _time(name: str, default: str, text: str, low: float = 0.0) -> Key:
    return Key(name, "duration", default, text, low, MAX_DURATION)


def _count(name: str, default: str, text: str, low: int = 1, high: int = MAX_COUNT) -> Key:
    return Key(name, "int", default, text, low, high)


def _word(name: str, default: str, text: str, *choices: str) -> Key:
    return Key(name, "choice", default, text, choices=choices)


TOP = _table(
    Key("title", "str", "", "a name of the whole, for people"),
    Key("plugins", "strs", "", "files, folders, module names; default: the folder plugins/ beside the file"),
    Key("run", "table", "", "settings of the run", table="run"),
    Key("ray", "table", "", "settings of the engine ray", table="ray"),
    Key("params", "params", "", "values that the command line may give"),
    Key("queues", "named", "", "the queues", table="queue"),
    Key("tasks", "named", "", "the tasks", table="task"),
    Key("defaults", "table", "", "values for all tasks, all queues", table="defaults"),
    Key("tests", "tests", "", "whole topologies tested from the file", table="test"),
)

RUN = _table(
    Key("durable", "bool", "false", "keep the ledger on disk, so that the run can be resumed"),
    Key(
        "halt",
        "halt",
        '"never"',
        'so many dead items stop the run: "first", a count, or a percentage (counted once 20 items have ended)',
        1,
        MAX_COUNT,
    ),
    _time(
        "deadline",
        "",
        "when the run has ended, drained or not (draining begins before it, at most `grace`); exit 124",
        0.001,
    ),
    _time("grace", '"10s"', "time to drain after the first Ctrl-C or SIGTERM"),
    Key(
        "engine",
        "engine",
        '"local"',
        'where processes live: `"local"`, `"ray"` (`[ray]` has the address of a cluster), or what a plugin offers',
    ),
    _word("log", '"prefix"', "lines of output carry the name of their worker, or are left alone", "prefix", "raw"),
    Key("state", "path", '".runner"', "folder of ledgers, dead letters and reports, relative to the file"),
    _count("record", "20", "so many past runs are kept in `state`, this one included; 0: none", 0),
    Key("max_item", "size", '"256MiB"', "the largest item that may travel between processes", 1, MAX_COUNT),
)

RAY = _table(Key("address", "str", '"auto"', "of the cluster"))

QUEUE = _table(
    _count("size", "1000", "so many items; when they are there, writers wait"),
    Key("bytes", "size", '"64MB"', "so many bytes; the bound that is reached first counts", 1, MAX_COUNT),
    _word(
        "full",
        '"wait"',
        "what a full queue does: its writers wait, or the new or the oldest item is dropped and counted",
        "wait",
        "drop-new",
        "drop-old",
    ),
    _word("order", '"fifo"', "which item is next: the oldest, the newest, the least", "fifo", "lifo", "priority"),
    _word(
        "fanout",
        "",
        "must be said when two tasks read the queue: they compete, or each gets every item",
        "share",
        "copy",
    ),
    Key(
        "lane",
        "str",
        "",
        "a field or key of the item: items of one lane keep their order and never run at the same time",
    ),
    Key("loop", "bool", "false", "this queue closes a cycle; it never blocks its writers"),
)

BATCH = _table(
    Key("items", "int", "", "at most so many items", 1, MAX_COUNT, required=True),
    Key("bytes", "size", "", "at most so many bytes", 1, MAX_COUNT),
    _time("wait", "", "at most so long for the batch to fill"),
)

BACKOFF = _table(
    _time("first", '"100ms"', "before the first retry"),
    Key("factor", "float", "2", "each wait is so many times the one before", 1, 1000),
    _time("max", '"30s"', "never longer than this"),
    Key("jitter", "float", "0.1", "spread, as a share of the wait", 0, 1),
)

RESTARTS = _table(
    _count("times", "5", "deaths of workers, not blamed on an item", 0),
    _time("window", '"1m"', "within this time", 0.001),
)

LIFESPAN = _table(
    _count("items", "", "replace a worker after so many items"),
    Key("memory", "size", "", "replace a worker above so much memory", 1, MAX_COUNT),
)

RESOURCES = _table(
    Key("cpus", "float", "", "processors for each worker", 0, 10_000),
    Key("gpus", "float", "", "graphics processors for each worker", 0, 10_000),
    Key("memory", "size", "", "memory for each worker", 1, MAX_COUNT),
)

TASK = _table(
    Key("call", "call", "the task's own name", "function, plugin.function or package.module:function"),
    Key("args", "args", "[]", "positional arguments, checked and converted by the function's signature and type hints"),
    Key("with", "with", "{}", "keyword arguments, as `args`"),
    Key("inputs", "queues", "[]", "queues it reads; a single one may be a string"),
    Key(
        "outputs",
        "ports",
        "[]",
        "queues it writes: every item goes to each; as a table, named ports, and the function picks",
    ),
    _word("mode", 'what the function declares, else "process"', "how its workers run", "thread", "process"),
    Key(
        "workers",
        "workers",
        "1",
        'a number, a list of names, "auto" (one for each core), or a range to adapt within',
        1,
        MAX_WORKERS,
    ),
    _count("concurrency", "100", "`async def` only: items in flight in one worker", 1, 1_000_000),
    Key(
        "batch",
        "batch",
        "",
        "the function takes a list of so many items; the rest is flushed at the end",
        1,
        MAX_COUNT,
        table="batch",
    ),
    Key("ordered", "bool", "false", "results leave in the order in which their items came"),
    _time(
        "timeout",
        "",
        "for one item, or without inputs for the whole call; processes only, as a thread cannot be killed",
        0.001,
    ),
    _count("attempts", "1", "tries in all", 1, 1_000_000),
    Key("backoff", "table", "", "waits before retries", table="backoff"),
    Key(
        "retry_on",
        "exceptions",
        "every Exception",
        "names of exceptions that are tried again; any other error is final at once",
    ),
    _word(
        "on_error",
        'with inputs "dead", without "fail"',
        "when tries are used up: a dead letter; dropped and counted; the task has failed; the whole run stops",
        "dead",
        "skip",
        "fail",
        "stop",
    ),
    Key("dead", "queue", "the run's own store", "a queue that gets what is given up, as `DeadLetter`"),
    Key("rate", "rate", "", "at most so many items in a time, over all workers"),
    Key("after", "after", "[]", 'tasks that must have ended well first; or a table, name → "started", "ended" or "ok"'),
    Key("restarts", "table", "", "deaths of workers, not blamed on an item, before the task fails", table="restarts"),
    Key("lifespan", "table", "", "a worker is replaced after so many items, or above so much memory", table="lifespan"),
    Key("enabled", "bool", "true", "whether it is part of the run"),
    Key("help", "str", "", "a line for people"),
    Key(
        "env",
        "env",
        "{}",
        "environment variables of its workers; for processes only (E214), because threads share one environment",
    ),
    Key("resources", "table", "", "what each worker needs of a cluster", table="resources"),
)

#: What belongs to one task only cannot be a default for all of them.
_OWN = ("call", "args", "with", "inputs", "outputs", "after", "help")
TASK_DEFAULTS = {name: key for name, key in TASK.items() if name not in _OWN}

DEFAULTS = _table(
    Key("task", "table", "", "for all tasks", table="task defaults"),
    Key("queue", "table", "", "for all queues", table="queue"),
)

PARAM_TYPES = ("str", "int", "float", "bool", "path", "duration", "size", "list")
PARAM = _table(
    _word("type", "the type of `default`", "what the value is", *PARAM_TYPES),
    Key("default", "any", "", "the value when nobody gives one"),
    Key("required", "bool", "false", "without a value the run does not start"),
    Key("choices", "list", "", "the only values allowed"),
    Key("min", "any", "", "the least value (or length) allowed"),
    Key("max", "any", "", "the greatest value (or length) allowed"),
    Key("env", "str", "", "an environment variable that may give it; the only way the environment gets in"),
    Key("secret", "bool", "false", "never printed; only for `args`, `with` and `env`"),
    Key("help", "str", "", "a line for people"),
)

STUB = _table(
    Key("gives", "any", "", "what the stub returns"),
    Key("fails", "int", "", "how many first tries fail", 0, MAX_COUNT),
    Key("error", "str", "", "the exception it raises"),
    _time("slow", "", "how long each item takes"),
)

EXPECT_QUEUE = _table(
    _count("count", "", "items that came through", 0),
    Key("any_order", "list", "", "exactly these items"),
    Key("ordered", "list", "", "exactly these items, in this order"),
    Key("contains", "list", "", "at least these items"),
    Key("matches", "str", "", "a regular expression for every item"),
)

EXPECT_TASK = _table(
    _count("done", "", "items done", 0), _count("dead", "", "items dead", 0), _count("tries", "", "tries in all", 0)
)

EXPECT = _table(
    _count("exit", "", "exit code of the run", 0, 255),
    Key("queues", "for queues", "", "what queues must have carried", table="expect queue"),
    Key("tasks", "for tasks", "", "what tasks must have done", table="expect task"),
    _count("repeated", "", "items given twice", 0),
    _count("dropped", "", "items dropped", 0),
)

FAULT = _table(
    Key("kill", "task", "", "kill a worker of this task"),
    Key("stop", "task", "", "stop this task"),
    _count("after", "", "after so many items", 0),
    _count("interrupt_run", "", "signal the run after so many items", 0),
)

TEST = _table(
    Key("name", "str", "", "of the test", required=True),
    Key("only", "tasks", "", "run only these tasks"),
    Key("params", "any table", "", "values of params"),
    Key("feed", "for queues", "", "items put into queues", table="feed"),
    Key("stub", "for tasks", "", "replacements of functions", table="stub"),
    Key("fault", "faults", "", "what goes wrong", table="fault"),
    _time("timeout", "", "for the test", 0.001),
    Key("expect", "table", "", "what must come out", table="expect"),
)

TABLES: dict[str, KeyTable] = {
    "top": TOP,
    "run": RUN,
    "ray": RAY,
    "queue": QUEUE,
    "task": TASK,
    "task defaults": TASK_DEFAULTS,
    "defaults": DEFAULTS,
    "param": PARAM,
    "batch": BATCH,
    "backoff": BACKOFF,
    "restarts": RESTARTS,
    "lifespan": LIFESPAN,
    "resources": RESOURCES,
    "test": TEST,
    "stub": STUB,
    "expect": EXPECT,
    "expect queue": EXPECT_QUEUE,
    "expect task": EXPECT_TASK,
    "fault": FAULT,
}


class UnsupportedFeature(Struct, frozen=True):
    """A word that this version of the engine does not act on; `used` tells whether a value asks for it."""

    description: str
    is_used_by: Callable[[Any], bool]


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _always(value: object) -> bool:
    return value is not None


#: (table, key) → what is missing. Using one is an error (E108), because a promise that is silently not kept is worse
#: than none. When the engine learns one, its line goes.
UNSUPPORTED_KEYS: dict[tuple[str, str], UnsupportedFeature] = {
    ("run", "durable"): UnsupportedFeature("durable runs (`durable = true`)", _is(True)),
    ("run", "engine"): UnsupportedFeature('the engine ray (`engine = "ray"`)', _is("ray")),
    ("queue", "lane"): UnsupportedFeature("lanes (`lane`)", _always),
    ("queue", "full"): UnsupportedFeature(
        'queues that drop items (`full = "drop-new"`, `"drop-old"`)', _is("drop-new", "drop-old")
    ),
    ("queue", "order"): UnsupportedFeature('other orders than "fifo" (`order`)', _is("lifo", "priority")),
    ("task", "workers"): UnsupportedFeature(
        'workers that adapt (`workers = "2..16"`)', lambda value: isinstance(value, str) and ".." in value
    ),
    ("task", "resources"): UnsupportedFeature("placing workers by `resources`", _always),
    ("top", "tests"): UnsupportedFeature("tests in the file (`[[tests]]`)", bool),
}


def unsupported_feature(table: str, key: str, value: Any) -> str:
    """What this version lacks to act on a value; empty when it lacks nothing."""
    missing = UNSUPPORTED_KEYS.get(("task" if table == "task defaults" else table, key))
    return missing.description if missing is not None and missing.is_used_by(value) else ""
