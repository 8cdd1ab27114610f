"""The language of the file as ONE table: every key, the type of its value, its default, and what it means.

`build` converts by it, the did-you-mean hints search it, and the reference and the JSON Schema are made of it.
Defaults are those of `model`, written as a file would say them; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from runner.config import test_types, units
from runner.config import value_types as types
from runner.config.reader import Key, KeyTable
from runner.config.resources import RESOURCES, RESOURCES_TYPE
from runner.model import Backoff, Expectations, Fault, Lifespan, QueueExpectation, Restarts, Stub, TaskExpectation
from runner.version import __version__

#: The name of the schema; it is not an address, for the schema comes with runner and lies beside the files it is for.
SCHEMA_ID = "urn:toml-runner:schema:tasks"

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
    Key("lane", types.TEXT,
        'a field of the items: those of one lane keep their order and never run at the same time; ".", the item itself',
        "no lanes"),
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
    Key("workers", types.WORKERS,
        'a number, a list of names, "auto" (one for each core, of all nodes), or a range: "2..16" follows the load',
        "1"),
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

STUB = KeyTable(
    "stub",
    Key("gives", types.ANY,
        "what it gives for an item: any value, with `${item}` for the item, or `${item.key}` for a part of it; of a "
        "task without inputs a list, the items; of a task with named ports a table, port → value",
        "the item itself"),
    Key("fails", types.integer(0), "the first tries of each item that fail", "none; all, with an `error`"),
    Key("error", types.TEXT, 'the exception with which it fails: `"OSError"`, or `"OSError: disk full"`',
        "RuntimeError"),
    Key("slow", units.duration(), "the time that it takes for each item", '"0s"'),
)

FAULT = KeyTable(
    "fault",
    Key("kill", test_types.task_name("kills a worker of"), "a worker of this task is killed (SIGKILL)"),
    Key("stop", test_types.task_name("stops a worker of"),
        "a worker of this task is stopped (SIGSTOP): it hangs, until the `timeout` of its task"),
    Key("after", types.integer(0), "with `kill` and `stop`: once this number of items of the task have ended"),
    Key("interrupt_run", types.integer(0),
        "the run is stopped, as by Ctrl-C, once this number of items have ended; a durable run then goes on"),
)

EXPECT_QUEUE = KeyTable(
    "expected queue",
    Key("count", types.integer(0), "the number of items that were put"),
    Key("any_order", test_types.items_of("a list"), "the items, in any order"),
    Key("ordered", test_types.items_of("a list"), "the items, in this order"),
    Key("contains", test_types.items_of("a list"), "items that are among them"),
    Key("matches", test_types.PATTERN, "is found in the text of each item; there is one at least"),
)

EXPECT_TASK = KeyTable(
    "expected task",
    Key("done", types.integer(0), "items that ended well; of a task without inputs, items that it sent"),
    Key("dead", types.integer(0), "items that were given up"),
    Key("tries", types.integer(0), "items that were begun, each try counted"),
)

EXPECT = KeyTable(
    "expect",
    Key("exit", types.integer(0, 255), "the exit code", "0"),
    Key("queues", test_types.by_name("queue", "expects items in", types.table_of(EXPECT_QUEUE, QueueExpectation)),
        "what went into queues, all of it"),
    Key("tasks", test_types.by_name("task", "expects counts of", types.table_of(EXPECT_TASK, TaskExpectation)),
        "counts of tasks"),
    Key("repeated", types.integer(0), "items that were given again, in all"),
    Key("dropped", types.integer(0), "items that were dropped, in all"),
)

TEST = KeyTable(
    "test",
    Key("name", test_types.TEST_NAME, "what the test shows; no two of a file have one name", required=True),
    Key("only", test_types.task_names("has only"),
        "the tasks that run; a queue that none of them reads is read by the test", "all"),
    Key("params", test_types.by_name("param", "sets", types.ANY),
        "values of params; `${folder}` is the folder of the file", "{}"),
    Key("feed", test_types.by_name("queue", "feeds", test_types.items_of("a list of items")),
        "items for queues; a source all of whose queues are fed does not run", "{}"),
    Key("stub", test_types.by_name("task", "has a stub of", types.table_of(STUB, Stub)),
        "functions that stand in for those of tasks", "{}"),
    Key("fault", test_types.list_of_tables(FAULT, Fault), "what befalls the run", "[]"),
    Key("timeout", _SOME_TIME, "a test that has not ended by then has failed; a limit for hangs only", '"10s"'),
    Key("expect", types.table_of(EXPECT, Expectations), "what must have come of it", "exit 0, and the balance"),
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
    Key("tests", test_types.file_tests(TEST), "tests of the file, each a table `[[tests]]`, for `runner test`"),
)
#: A file that holds nothing but tests of another one: `NAME.test.toml`.
TEST_FILE = KeyTable(
    "test file",
    Key("file", types.PATH, "the file that is tested, relative to this one", required=True),
    TOP["tests"],
)
# fmt: on

_PARTS = (BATCH, BACKOFF, RESTARTS, LIFESPAN, RESOURCES)
TABLES: dict[str, KeyTable] = {
    table.name: table
    for table in (
        *(TOP, RUN, AGENTS, RAY, QUEUE, TASK, TASK_DEFAULTS, DEFAULTS, PARAM, *_PARTS),
        *(TEST, STUB, FAULT, EXPECT, EXPECT_QUEUE, EXPECT_TASK),
    )
}
#: Where a key belongs that stands in another of these tables.
HOMES = {"the top of the file": TOP, "[run]": RUN, "[agents]": AGENTS, "[ray]": RAY, "queues": QUEUE, "tasks": TASK}


def build_schema() -> dict[str, Any]:
    """Return the JSON Schema of the whole file, draft 2020-12, for editors and other tools.

    It knows types, names, ranges and units, and nothing of what belongs together; `runner check` knows that.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "$comment": f"of runner {__version__}; `runner schema --write` renews it",
        "title": "runner",
        "description": "A file of tasks and queues for `runner run`.",
        **TOP.describe(),
        "required": ["tasks"],
        "$defs": {table.schema_id: table.describe() for table in TABLES.values() if table is not TOP},
    }
