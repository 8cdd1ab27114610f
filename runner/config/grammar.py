"""The language of the file as ONE table: every key, the type of its value, its default, and what it means.

`build` converts by it, the did-you-mean hints search it, and the reference and the JSON Schema are made of it.
Defaults are those of `model`, written as a file would say them; a test compares the two. `planned` has the words that
this version refuses.
"""

from __future__ import annotations

from runner.config import value_types as types
from runner.config.reader import Key, KeyTable
from runner.model import Backoff, Lifespan, Restarts

#: A time that must not be 0.
_SOME_TIME = types.duration(0.001)

RUN = KeyTable(
    "run",
    Key(
        "halt",
        types.HALT,
        '"never"',
        'the dead items that stop the run: "first", a count, or a percentage (counted once 20 items have ended)',
    ),
    Key(
        "deadline",
        _SOME_TIME,
        "",
        "when the run has ended, drained or not (draining begins before it, at most `grace`); exit 124",
    ),
    Key("grace", types.duration(), '"10s"', "time to drain after the first Ctrl-C or SIGTERM"),
    Key("engine", types.ENGINE, '"local"', 'where processes live: `"local"`, or an engine of a plugin'),
    Key(
        "log",
        types.choice("prefix", "raw"),
        '"prefix"',
        "lines of output carry the name of their worker, or are left alone",
    ),
    Key("state", types.PATH, '".runner"', "folder of ledgers, dead letters and reports, relative to the file"),
    Key("record", types.integer(0), "20", "the number of runs that are kept in `state`, this one included; 0: none"),
    Key("max_item", types.SIZE, '"256MiB"', "the largest item that may travel between processes"),
)

QUEUE = KeyTable(
    "queue",
    Key("size", types.integer(), "1000", "the most items that it holds; while it is full, writers wait"),
    Key("bytes", types.SIZE, '"64MB"', "the most bytes that it holds; the bound that is reached first counts"),
    Key(
        "fanout",
        types.choice("share", "copy"),
        "",
        "required when two tasks read the queue: they compete, or each gets every item",
    ),
    Key("loop", types.BOOLEAN, "false", "this queue closes a cycle; it never blocks its writers"),
)

BATCH = KeyTable(
    "batch",
    Key("items", types.integer(), "", "the most items in a batch", required=True),
    Key("bytes", types.SIZE, "", "the most bytes in a batch"),
    Key("wait", types.duration(), "", "the longest time to wait for the batch to fill"),
)

BACKOFF = KeyTable(
    "backoff",
    Key("first", types.duration(), '"100ms"', "before the first retry"),
    Key("factor", types.number(1, 1000), "2", "each wait is the one before times this"),
    Key("max", types.duration(), '"30s"', "never longer than this"),
    Key("jitter", types.number(0, 1), "0.1", "spread, as a share of the wait"),
)

RESTARTS = KeyTable(
    "restarts",
    Key("times", types.integer(0), "5", "deaths of workers, not blamed on an item"),
    Key("window", _SOME_TIME, '"1m"', "within this time"),
)

LIFESPAN = KeyTable(
    "lifespan",
    Key("items", types.integer(), "", "replace a worker after this number of items"),
    Key("memory", types.SIZE, "", "replace a worker that has more memory than this"),
)

TASK = KeyTable(
    "task",
    Key("call", types.CALL, "the task's own name", "function, plugin.function or package.module:function"),
    Key(
        "args",
        types.ARGS,
        "[]",
        "positional arguments, checked and converted by the function's signature and type hints",
    ),
    Key("with", types.KWARGS, "{}", "keyword arguments, as `args`"),
    Key("inputs", types.QUEUES, "[]", "queues it reads; a single one may be a string"),
    Key(
        "outputs",
        types.PORTS,
        "[]",
        "queues it writes: every item goes to each; as a table, named ports, and the function picks",
    ),
    Key("mode", types.choice("thread", "process"), 'what the function declares, else "process"', "how its workers run"),
    Key("workers", types.WORKERS, "1", 'a number, a list of names, or "auto" (one for each core)'),
    Key("concurrency", types.integer(1, 1_000_000), "100", "`async def` only: items in flight in one worker"),
    Key(
        "batch",
        types.batch_of(BATCH),
        "",
        "the function takes a list of items, at most this number; the rest is flushed at the end",
    ),
    Key("ordered", types.BOOLEAN, "false", "results leave in the order in which their items came"),
    Key(
        "timeout",
        _SOME_TIME,
        "",
        "for one item, or without inputs for the whole call; processes only, as a thread cannot be killed",
    ),
    Key("attempts", types.integer(1, 1_000_000), "1", "tries in all"),
    Key("backoff", types.table_of(BACKOFF, Backoff), "", "waits before retries"),
    Key(
        "retry_on",
        types.EXCEPTIONS,
        "every Exception",
        "names of exceptions that are tried again; any other error is final at once",
    ),
    Key(
        "on_error",
        types.choice("dead", "skip", "fail", "stop"),
        'with inputs "dead", without "fail"',
        "when tries are used up: a dead letter; dropped and counted; the task has failed; the whole run stops",
    ),
    Key("dead", types.DEAD_QUEUE, "the run's own store", "a queue that receives the items given up, as `DeadLetter`"),
    Key("rate", types.RATE, "", "the most items in a period, over all workers"),
    Key(
        "after",
        types.AFTER,
        "[]",
        'tasks that must have ended well first; or a table, name → "started", "ended" or "ok"',
    ),
    Key(
        "restarts",
        types.table_of(RESTARTS, Restarts),
        "",
        "deaths of workers, not blamed on an item, before the task fails",
    ),
    Key(
        "lifespan",
        types.table_of(LIFESPAN, Lifespan),
        "",
        "a worker is replaced after a number of items, or above an amount of memory",
    ),
    Key("enabled", types.BOOLEAN, "true", "if false, it is not part of the run"),
    Key("help", types.TEXT, "", "a line for people"),
    Key(
        "env",
        types.ENVIRONMENT,
        "{}",
        "environment variables of its workers; for processes only (E214), because threads share one environment",
    ),
)

#: What belongs to one task only cannot be a default for all of them.
_OWN = ("call", "args", "with", "inputs", "outputs", "after", "help")
TASK_DEFAULTS = KeyTable("task defaults", *(key for name, key in TASK.items() if name not in _OWN))

DEFAULTS = KeyTable(
    "defaults",
    Key("task", types.table_of(TASK_DEFAULTS), "", "for all tasks"),
    Key("queue", types.table_of(QUEUE), "", "for all queues"),
)

PARAM = KeyTable(
    "param",
    Key(
        "type",
        types.choice("str", "int", "float", "bool", "path", "duration", "size", "list"),
        "the type of `default`",
        "what the value is",
    ),
    Key("default", types.ANY, "", "the value if none is given"),
    Key("required", types.BOOLEAN, "false", "without a value the run does not start"),
    Key("choices", types.LIST, "", "the only values allowed"),
    Key("min", types.ANY, "", "the least value (or length) allowed"),
    Key("max", types.ANY, "", "the greatest value (or length) allowed"),
    Key("env", types.TEXT, "", "an environment variable that may give it; the only way the environment gets in"),
    Key("secret", types.BOOLEAN, "false", "never printed; only for `args`, `with` and `env`"),
    Key("help", types.TEXT, "", "a line for people"),
)

TOP = KeyTable(
    "top",
    Key("title", types.TEXT, "", "a name of the whole, for people"),
    Key("plugins", types.STRINGS, "", "files, folders, module names; default: the folder plugins/ beside the file"),
    Key("run", types.table_of(RUN), "", "settings of the run"),
    Key("params", types.declarations(PARAM), "", "values that the command line may give"),
    Key("queues", types.named_tables(QUEUE), "", "the queues"),
    Key("tasks", types.named_tables(TASK), "", "the tasks"),
    Key("defaults", types.table_of(DEFAULTS), "", "values for all tasks, all queues"),
)

TABLES: dict[str, KeyTable] = {
    table.name: table
    for table in (TOP, RUN, QUEUE, TASK, TASK_DEFAULTS, DEFAULTS, PARAM, BATCH, BACKOFF, RESTARTS, LIFESPAN)
}
#: Where a key belongs that stands in another of these tables.
HOMES = {"the top of the file": TOP, "[run]": RUN, "queues": QUEUE, "tasks": TASK}
