"""The language of the file as ONE table: every key, the type of its value, its default, and what it means.

`build` converts by it, the did-you-mean hints search it, and the reference and the JSON Schema are made of it.
Defaults are those of `model`, written as a file would say them; a test compares the two. `planned` has the words that
this version refuses.
"""

from __future__ import annotations

from typing import Any

from runner.config import units
from runner.config import value_types as types
from runner.config.reader import Key, KeyTable
from runner.config.resources import RESOURCES, RESOURCES_TYPE
from runner.model import Backoff, Lifespan, Restarts

#: A time that must not be 0.
_SOME_TIME = units.duration(0.001)

# Formatted by hand, as a table: a key and its type, and what it means with its default.
# fmt: off
RUN = KeyTable(
    "run",
    Key("halt", types.HALT,
        'the dead items that stop the run: "first", a count, or a percentage (counted once 20 items have ended)',
        '"never"'),
    Key("deadline", _SOME_TIME,
        "when the run has ended, drained or not (draining begins before it, at most `grace`); exit 124"),
    Key("grace", units.duration(), "time to drain after the first Ctrl-C or SIGTERM", '"10s"'),
    Key("engine", types.ENGINE,
        'where processes live: `"local"`; `"agents"`, on machines that join; `"ray"`, on a Ray cluster; or an engine'
        " of a plugin", '"local"'),
    Key("log", types.choice("prefix", "raw"),
        "lines of output carry the name of their worker, or are left alone", '"prefix"'),
    Key("state", types.PATH, "folder of ledgers, dead letters and reports, relative to the file", '".runner"'),
    Key("record", types.integer(0), "the number of runs that are kept in `state`, this one included; 0: none", "20"),
    Key("dead_items", units.size(0),
        'bytes of dead items that are kept, so that `runner dead retry` can give them again; "0B": none', '"64MB"'),
    Key("durable", types.BOOLEAN,
        "keep the ledger on disk: after a crash, or a stop, `runner resume` goes on where the run was", "false"),
    Key("overlap", types.choice("allow", "refuse", "wait"),
        "when a run of this file begins while another one goes on: both go on, it is refused (exit 3), or it waits",
        '"allow"'),
    Key("max_item", units.SIZE, "the largest item that may travel between processes", '"256MiB"'),
)

AGENTS = KeyTable(
    "agents",
    Key("nodes", types.integer(), "the most machines that may join", "as many as do"),
    Key("listen", types.ADDRESS, "where agents dial in, host and port; port 0 is any that is free",
        "the address by which other machines reach this one"),
    Key("lost", units.duration(2.0), "silence after which a machine counts as gone", '"10s"'),
    Key("folder", types.TEXT,
        "where the nodes have the project's folder: workers begin there, and nothing is sent",
        "local plugins are sent to the nodes"),
    Key("encrypt", types.BOOLEAN,
        "connections are TLS; if false, both ends prove to have the run's key, and what follows is plain", "true"),
)

RAY = KeyTable(
    "ray",
    Key("address", types.TEXT,
        'the cluster, as Ray has it: `"auto"`, `"HOST:PORT"`; `"local"` starts one here for the run', '"auto"'),
)

QUEUE = KeyTable(
    "queue",
    Key("size", types.integer(), "the most items that it holds; while it is full, writers wait", "1000"),
    Key("bytes", units.SIZE, "the most bytes that it holds; the bound that is reached first counts", '"64MB"'),
    Key("full", types.choice("wait", "drop-new", "drop-old"),
        "when it is full: writers wait, or what comes in, or what has waited longest, is dropped and counted",
        '"wait"'),
    Key("order", types.choice("fifo", "lifo", "priority"),
        "what is next: what came first, what came last, or the item with the least `priority`", '"fifo"'),
    Key("fanout", types.choice("share", "copy"),
        "required when two tasks read the queue: they compete, or each gets every item"),
    Key("loop", types.BOOLEAN, "this queue closes a cycle; it never blocks its writers", "false"),
)

BATCH = KeyTable(
    "batch",
    Key("items", types.integer(), "the most items in a batch", required=True),
    Key("bytes", units.SIZE, "the most bytes in a batch"),
    Key("wait", units.duration(), "the longest time to wait for the batch to fill"),
)

BACKOFF = KeyTable(
    "backoff",
    Key("first", units.duration(), "before the first retry", '"100ms"'),
    Key("factor", types.number(1, 1000), "each wait is the one before times this", "2"),
    Key("max", units.duration(), "never longer than this", '"30s"'),
    Key("jitter", types.number(0, 1), "spread, as a share of the wait", "0.1"),
)

RESTARTS = KeyTable(
    "restarts",
    Key("times", types.integer(0), "deaths of workers, not blamed on an item", "5"),
    Key("window", _SOME_TIME, "within this time", '"1m"'),
)

LIFESPAN = KeyTable(
    "lifespan",
    Key("items", types.integer(), "replace a worker after this number of items"),
    Key("memory", units.SIZE, "replace a worker that has more memory than this"),
)

TASK = KeyTable(
    "task",
    Key("call", types.CALL, "function, plugin.function or package.module:function", "the task's own name"),
    Key("args", types.ARGS,
        "positional arguments, checked and converted by the function's signature and type hints", "[]"),
    Key("with", types.KWARGS, "keyword arguments, as `args`", "{}"),
    Key("inputs", types.QUEUES, "queues it reads; a single one may be a string", "[]"),
    Key("outputs", types.PORTS,
        "queues it writes: every item goes to each; as a table, named ports, and the function picks", "[]"),
    Key("mode", types.choice("thread", "process"), "how its workers run", 'what the function declares, else "process"'),
    Key("workers", types.WORKERS, 'a number, a list of names, or "auto" (one for each core)', "1"),
    Key("concurrency", types.integer(1, 1_000_000), "`async def` only: items in flight in one worker", "100"),
    Key("batch", types.batch_of(BATCH),
        "the function takes a list of items, at most this number; the rest is flushed at the end"),
    Key("ordered", types.BOOLEAN, "results leave in the order in which their items came", "false"),
    Key("key", types.TEXT,
        'sources only: a field of the items by which a durable run knows them again; ".", the item itself',
        "their order"),
    Key("timeout", _SOME_TIME,
        "for one item, or without inputs for the whole call; processes only, as a thread cannot be killed"),
    Key("attempts", types.integer(1, 1_000_000), "tries in all", "1"),
    Key("backoff", types.table_of(BACKOFF, Backoff), "waits before retries"),
    Key("retry_on", types.EXCEPTIONS,
        "names of exceptions that are tried again; any other error is final at once", "every Exception"),
    Key("on_error", types.choice("dead", "skip", "fail", "stop"),
        "when tries are used up: a dead letter; dropped and counted; the task has failed; the whole run stops",
        'with inputs "dead", without "fail"'),
    Key("dead", types.DEAD_QUEUE, "a queue that receives the items given up, as `DeadLetter`", "the run's own store"),
    Key("rate", units.RATE, "the most items in a period, over all workers"),
    Key("after", types.AFTER,
        'tasks that must have ended well first; or a table, name → "started", "ended" or "ok"', "[]"),
    Key("restarts", types.table_of(RESTARTS, Restarts),
        "deaths of workers, not blamed on an item, before the task fails"),
    Key("lifespan", types.table_of(LIFESPAN, Lifespan),
        "a worker is replaced after a number of items, or above an amount of memory"),
    Key("enabled", types.BOOLEAN, "if false, it is not part of the run", "true"),
    Key("help", types.TEXT, "a line for people"),
    Key("env", types.ENVIRONMENT,
        "environment variables of its workers; for processes only (E214), because threads share one environment", "{}"),
    Key("resources", RESOURCES_TYPE, "what each worker needs of its node, with the engines `agents` and `ray`",
        "one CPU"),
)

#: What belongs to one task only cannot be a default for all of them.
_OWN = ("call", "args", "with", "inputs", "outputs", "after", "help")
TASK_DEFAULTS = KeyTable("task defaults", *(key for name, key in TASK.items() if name not in _OWN))

DEFAULTS = KeyTable(
    "defaults",
    Key("task", types.table_of(TASK_DEFAULTS), "for all tasks"),
    Key("queue", types.table_of(QUEUE), "for all queues"),
)

PARAM = KeyTable(
    "param",
    Key("type", types.choice("str", "int", "float", "bool", "path", "duration", "size", "list"),
        "what the value is", "the type of `default`"),
    Key("default", types.ANY, "the value if none is given"),
    Key("required", types.BOOLEAN, "without a value the run does not start", "false"),
    Key("choices", types.LIST, "the only values allowed"),
    Key("min", types.ANY, "the least value (or length) allowed"),
    Key("max", types.ANY, "the greatest value (or length) allowed"),
    Key("env", types.TEXT, "an environment variable that may give it; the only way the environment gets in"),
    Key("secret", types.BOOLEAN, "never printed; only for `args`, `with` and `env`", "false"),
    Key("help", types.TEXT, "a line for people"),
)

TOP = KeyTable(
    "top",
    Key("title", types.TEXT, "a name of the whole, for people"),
    Key("plugins", types.STRINGS, "files, folders, module names; default: the folder plugins/ beside the file"),
    Key("run", types.table_of(RUN), "settings of the run"),
    Key("agents", types.table_of(AGENTS), "settings of the engines `agents` and `ray`"),
    Key("ray", types.table_of(RAY), "settings of the engine of that name"),
    Key("params", types.declarations(PARAM), "values that the command line may give"),
    Key("queues", types.named_tables(QUEUE), "the queues"),
    Key("tasks", types.named_tables(TASK), "the tasks"),
    Key("defaults", types.table_of(DEFAULTS), "values for all tasks, all queues"),
)
# fmt: on

_PARTS = (BATCH, BACKOFF, RESTARTS, LIFESPAN, RESOURCES)
TABLES: dict[str, KeyTable] = {
    table.name: table for table in (TOP, RUN, AGENTS, RAY, QUEUE, TASK, TASK_DEFAULTS, DEFAULTS, PARAM, *_PARTS)
}
#: Where a key belongs that stands in another of these tables.
HOMES = {"the top of the file": TOP, "[run]": RUN, "[agents]": AGENTS, "[ray]": RAY, "queues": QUEUE, "tasks": TASK}


def build_schema() -> dict[str, Any]:
    """Return the JSON Schema of the whole file, draft 2020-12, for editors and other tools.

    It knows types, names, ranges and units, and nothing of what belongs together; `runner check` knows that.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "runner",
        "description": "A file of tasks and queues for `runner run`.",
        **TOP.describe(),
        "required": ["tasks"],
        "$defs": {table.schema_id: table.describe() for table in TABLES.values() if table is not TOP},
    }
