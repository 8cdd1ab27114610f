"""What each code means, with an example of the mistake and the way out: the pages of `runner explain`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """One code.

    `text` is one paragraph; `wrong` is a whole file that has exactly this mistake, `right` what it should say instead.
    """

    code: str
    title: str
    text: str
    wrong: str = ""
    right: str = ""


def _page(code: str, title: str, text: str, wrong: str = "", right: str = "") -> tuple[str, Page]:
    return code, Page(code, title, text, wrong, right)


PAGES: dict[str, Page] = dict(
    [
        _page(
            "E101",
            "the file cannot be read",
            "It does not exist, is a folder or a device, may not be read, is larger than 1 MiB, or "
            "is no UTF-8 text. A byte order mark and Windows line ends are fine. `-` reads standard"
            " input.",
        ),
        _page(
            "E102",
            "the file is not TOML",
            "The caret shows where the parser gave up; the mistake is there or just before it: a "
            "quote or a bracket that is not closed, a key that is there twice, a value without "
            "quotes.",
            "[tasks.bake]\ncall = bake",
            '[tasks.bake]\ncall = "bake"',
        ),
        _page(
            "E103",
            "a value of the wrong type",
            "The key wants another kind of value: a number instead of a string, a list instead of a"
            " table. `runner schema` gives the types of all keys to your editor.",
            '[tasks.bake]\nattempts = "3"',
            "[tasks.bake]\nattempts = 3",
        ),
        _page(
            "E104",
            "an unknown key",
            "There is no such key in this table; it is never ignored, because a misspelt `timeout` "
            "would be no timeout.",
            '[tasks.bake]\nwrokers = ["pa", "pb"]',
            '[tasks.bake]\nworkers = ["pa", "pb"]',
        ),
        _page(
            "E105",
            "a value out of range",
            "The type is right, but the value is too small, too large, or none of the words that the key knows.",
            '[tasks.bake]\nmode = "thred"',
            '[tasks.bake]\nmode = "thread"',
        ),
        _page(
            "E106",
            "a quantity without its unit, or with an unknown one",
            "Times are numbers with us, ms, s, m, h or d; sizes with B, KB, MB, GB, TB (powers of "
            "1000) or KiB, MiB, GiB, TiB (powers of 1024); rates are counts for each s, min, h or "
            "day; shares are percentages.",
            "[tasks.bake]\ntimeout = 30",
            '[tasks.bake]\ntimeout = "30s"',
        ),
        _page(
            "E107",
            "not a name",
            "Names of tasks, queues, params and ports are up to 64 letters, digits, `_` and `-`. A "
            'function is named "function", "plugin.function" or "package.module:function".',
            '[tasks.bake]\ncall = "bake()"',
            '[tasks.bake]\ncall = "bake"',
        ),
        _page(
            "E108",
            "this version does not have it yet",
            "The word belongs to the language, and the file is right; but the engine of this "
            "version does not act on it. It is an error because a promise that is silently not kept"
            " is worse than none.",
            "[run]\ndurable = true\n[tasks.bake]",
            "[tasks.bake]",
        ),
        _page(
            "E109",
            "something is needed",
            "A table lacks a key that it cannot do without, or the file has no task at all.",
            'title = "nothing to do"',
            'title = "something to do"\n[tasks.bake]',
        ),
        _page(
            "E110",
            "--set leads nowhere",
            "`--set PATH=VALUE` wants a dotted path of keys, and tables on the way: `--set "
            "tasks.bake.workers=2`, `--set 'queues.bread.size=10'`.",
        ),
        _page(
            "E111",
            "an unknown param",
            "`${name}` in the file, or `-p name=...` on the command line, names a param that "
            "`[params]` does not declare. A literal `${` is written `$${`. `runner list params` "
            "shows what a file has.",
            '[params]\nloaves = 3\n[tasks.bake]\ncall = "builtins:print"\nargs = ["${lovaes}"]',
            '[params]\nloaves = 3\n[tasks.bake]\ncall = "builtins:print"\nargs = ["${loaves}"]',
        ),
        _page(
            "E112",
            "a required param has no value",
            "Give it with `-p NAME=VALUE`, or in the environment variable that its `env` names. "
            "`runner check` only warns: nothing is going to run, but what depends on the value is "
            "not checked.",
            ('[params]\nlist = { required = true }\n[tasks.bake]\ncall = "builtins:print"\nargs = ["${list}"]'),
        ),
        _page(
            "E113",
            "a param's value does not fit",
            "The value that was given is not of the param's type, or out of its `min`, `max` or `choices`.",
        ),
        _page(
            "E114",
            "a param's declaration contradicts itself",
            "For instance a `default` outside `min` and `max`, `required` with a `default`, or neither of both.",
            '[params]\nloaves = { default = 0, min = 1 }\n[tasks.bake]\nargs = ["${loaves}"]',
            '[params]\nloaves = { default = 3, min = 1 }\n[tasks.bake]\nargs = ["${loaves}"]',
        ),
        _page(
            "E115",
            "a reference that is none",
            "`${` begins a reference and `}` ends it; a literal `${` is written `$${`. A list fits "
            'no text: refer to it with nothing around it, `"${names}"`, and it stays a list.',
            '[tasks.bake]\ncall = "builtins:print"\nargs = ["${loaves"]',
            '[tasks.bake]\ncall = "builtins:print"\nargs = ["$${loaves"]',
        ),
        _page(
            "E116",
            "a secret where it would be shown",
            "The value of a param with `secret = true` goes to functions (`args`, `with`) and into the environment of"
            " workers (`env`). Titles, names, paths and limits appear in what runner prints, so a secret cannot be"
            " part of them.",
            '[params]\nkey = { default = "x", secret = true }\n[tasks.bake]\nhelp = "${key}"',
            '[params]\nkey = { default = "x", secret = true }\n[tasks.bake]\nenv = { KEY = "${key}" }',
        ),
        _page(
            "E117",
            "too many tasks or queues",
            "A file has at most 2,000 tasks and 2,000 queues. Many items are no reason for many tasks: one task with"
            " many workers executes them.",
        ),
        _page(
            "E201",
            "an unknown task",
            "A key names a task that the file does not have.",
            '[tasks.bake]\n[tasks.sing]\nafter = ["baek"]',
            '[tasks.bake]\n[tasks.sing]\nafter = ["bake"]',
        ),
        _page(
            "E203",
            "an unknown queue",
            "A task names a queue that `[queues]` does not have. Queues are always declared, so "
            "that a misspelt one is found: `[queues]` and `bread = {}` is enough.",
            '[queues]\nbread = {}\n[tasks.bake]\noutputs = ["bread"]\n[tasks.eat]\ninputs = ["braed"]',
            '[queues]\nbread = {}\n[tasks.bake]\noutputs = ["bread"]\n[tasks.eat]\ninputs = ["bread"]',
        ),
        _page(
            "E204",
            "a queue that nobody writes",
            "Its readers would wait for nothing. A queue is written by the tasks that have it in "
            "`outputs` or in `dead`; tasks that are not `enabled` do not count.",
            '[queues]\nbread = {}\n[tasks.eat]\ninputs = ["bread"]',
            '[queues]\nbread = {}\n[tasks.bake]\noutputs = ["bread"]\n[tasks.eat]\ninputs = ["bread"]',
        ),
        _page(
            "E205",
            "a queue that nobody reads",
            "Its writers would wait for ever once it is full. For items that nobody needs, leave "
            "`outputs` out; for dead letters, leave `dead` out: they are kept in the run's own "
            "store.",
            '[queues]\nbread = {}\n[tasks.bake]\noutputs = ["bread"]',
            '[queues]\nbread = {}\n[tasks.bake]\noutputs = ["bread"]\n[tasks.eat]\ninputs = ["bread"]',
        ),
        _page(
            "E206",
            "two tasks read one queue, and how is not said",
            'With `fanout = "share"` they compete, and each item goes to one of them; with `fanout '
            '= "copy"` each of them gets every item. Both are common, so neither is assumed. (The '
            "workers of one task always compete.)",
            ('[queues]\nq = {}\n[tasks.a]\noutputs = ["q"]\n[tasks.b]\ninputs = ["q"]\n[tasks.c]\ninputs = ["q"]'),
            (
                "[queues]\n"
                'q = { fanout = "copy" }\n'
                "[tasks.a]\n"
                'outputs = ["q"]\n'
                "[tasks.b]\n"
                'inputs = ["q"]\n'
                "[tasks.c]\n"
                'inputs = ["q"]'
            ),
        ),
        _page(
            "E207",
            "a cycle without `loop`",
            "The tasks of a cycle of bounded queues can all wait for room, for ever. Say `loop = "
            "true` for the queue that leads back: it then never makes its writers wait, so its "
            "length is bounded by what your functions send round.",
            (
                "[queues]\n"
                "start = {}\n"
                "again = {}\n"
                "[tasks.seed]\n"
                "outputs = ['start']\n"
                "[tasks.crawl]\n"
                "inputs = ['start', 'again']\n"
                "outputs = ['again']"
            ),
            (
                "[queues]\n"
                "start = {}\n"
                "again = { loop = true }\n"
                "[tasks.seed]\n"
                "outputs = ['start']\n"
                "[tasks.crawl]\n"
                "inputs = ['start', 'again']\n"
                "outputs = ['again']"
            ),
        ),
        _page(
            "E208",
            "tasks that wait for each other",
            "None of them could ever start or end. A task also waits for the writers of its inputs:"
            ' it ends after them. `after = { other = "started" }` waits only until the other has '
            "started.",
            "[tasks.bake]\nafter = ['sing']\n[tasks.sing]\nafter = ['bake']",
            "[tasks.bake]\n[tasks.sing]\nafter = ['bake']",
        ),
        _page(
            "E209",
            "`timeout` with threads",
            "A thread cannot be killed, so a time limit on it could only be broken. Use processes, "
            "or give the function a limit of its own (a socket's timeout, for instance).",
            '[tasks.bake]\nmode = "thread"\ntimeout = "30s"',
            '[tasks.bake]\nmode = "process"\ntimeout = "30s"',
        ),
        _page(
            "E210",
            "a key without effect",
            "What the file says would be ignored, because another key rules it out. Nothing is ignored in silence.",
            "[tasks.bake]\nbatch = 10",
            "[tasks.bake]",
        ),
        _page(
            "E211",
            "a name that is there twice",
            "A task reads or writes a queue once, waits for another once, and its workers have different names.",
            '[tasks.bake]\nworkers = ["pa", "pb", "pa"]',
            '[tasks.bake]\nworkers = ["pa", "pb", "pc"]',
        ),
        _page(
            "E212",
            "a port or a queue of dead letters that does not fit",
            "A port leads to at least one queue: an item sent to a port without one would be lost. "
            "A queue that some task names in `dead` carries `DeadLetter` objects, so no other task "
            "may write items to it.",
            "[tasks.bake]\noutputs = { small = [] }",
            "[tasks.bake]",
        ),
        _page(
            "E301",
            "an unknown task function",
            "`call` (or the task's own name, when there is no `call`) names a function that no "
            "plugin has. Plugins are the files in `plugins/` beside the file, or what `plugins = "
            "[...]` names; their task functions are marked with `@task`. Any other callable is "
            "named `package.module:function`. `runner list functions` shows them all.",
            '[tasks.bake]\ncall = "math:sqroot"',
            '[tasks.bake]\ncall = "math:sqrt"\nargs = [2]',
        ),
        _page(
            "E302",
            "an argument is missing",
            "The function needs it, and neither `args` nor `with` gives it. With `inputs`, the item"
            " is the first positional argument, and what is annotated `Context`, `Inbox` or "
            "`Outbox` is given by runner.",
            '[tasks.bake]\ncall = "shutil:copyfile"\nargs = ["from"]',
            '[tasks.bake]\ncall = "shutil:copyfile"\nargs = ["from", "to"]',
        ),
        _page(
            "E303",
            "an unknown argument",
            "`with` names an argument that the function does not have, or that something else gives already.",
            ('[tasks.bake]\ncall = "shutil:copyfile"\nargs = ["a", "b"]\nwith = { folow_symlinks = false }'),
            ('[tasks.bake]\ncall = "shutil:copyfile"\nargs = ["a", "b"]\nwith = { follow_symlinks = false }'),
        ),
        _page(
            "E304",
            "an argument of the wrong type",
            "It cannot be converted to what the function's type hint asks for. Hints may be `Path`,"
            " `datetime`, enums, dataclasses, pydantic models, and everything else that pydantic "
            "can make of TOML's values.",
            '[tasks.bake]\ncall = "tomllib:loads"\nargs = [3]',
            '[tasks.bake]\ncall = "tomllib:loads"\nargs = ["a = 3"]',
        ),
        _page(
            "E305",
            "too many positional arguments",
            "`args` has more values than the function takes by position. With `inputs`, the item is the first of them.",
            '[tasks.bake]\ncall = "shutil:copyfile"\nargs = ["a", "b", "c"]',
            '[tasks.bake]\ncall = "shutil:copyfile"\nargs = ["a", "b"]',
        ),
        _page(
            "E306",
            "a function that takes no item",
            "The task has `inputs`, so its function is called with each item; but it has no "
            "positional parameter for one.",
            (
                "[queues]\n"
                "q = {}\n"
                "[tasks.a]\n"
                'call = "os:getcwd"\n'
                'outputs = ["q"]\n'
                "[tasks.b]\n"
                'call = "platform:python_version"\n'
                'inputs = ["q"]'
            ),
        ),
        _page(
            "E307",
            "a name in `retry_on` that is no known exception",
            "Names are those of built-in exceptions, of exceptions in the function's own module, or"
            " dotted ones such as `urllib.error.URLError`, written as the exception itself says it "
            "is called.",
            '[tasks.bake]\ncall = "os:getcwd"\nattempts = 2\nretry_on = ["ValueErorr"]',
            '[tasks.bake]\ncall = "os:getcwd"\nattempts = 2\nretry_on = ["ValueError"]',
        ),
        _page(
            "E308",
            "a function that processes cannot import",
            "A worker process gets the name of its function, not the function itself. Functions "
            "inside functions, lambdas and functions that were replaced after their definition have"
            " no name that leads to them. Define the function at the top of its module, or say "
            '`mode = "thread"`.',
        ),
        _page(
            "E309",
            "a declaration of the function is wrong",
            "The options in `@task(...)` are keys of a task's table, and must be as right as the file.",
        ),
        _page(
            "E310",
            "a plugin or module that cannot be imported",
            "Importing it raised what is shown. Other plugins are not harmed; only a run that needs this one fails.",
            '[tasks.bake]\ncall = "no_such_module:bake"',
        ),
        _page(
            "E311",
            "one name in two plugins",
            "Two plugins offer a function of that name (write `plugin.function`), or two plugins have the same name.",
        ),
        _page(
            "E312",
            "an unknown plugin",
            "`plugins = [...]` names files, folders (relative to the file) or importable modules; "
            "in `call`, what stands before the dot is the name of a plugin. `runner list plugins` "
            "shows what was found.",
            'plugins = ["no_such_plugin"]\n[tasks.bake]\ncall = "os:getcwd"',
        ),
        _page(
            "W401",
            "a param that nothing uses",
            "No `${name}` refers to it: giving it would change nothing.",
            "[params]\nloaves = 3\n[tasks.bake]",
        ),
        _page(
            "W402",
            "a durable run with a queue that drops items",
            "The run can be resumed after a crash, but items that a full queue drops are gone all the same.",
        ),
        _page(
            "W403",
            "many more processes than cores",
            'They would mostly wait for each other. `workers = "auto"` is one for each core; for '
            'functions that wait for the network, `mode = "thread"` costs less.',
            "[tasks.bake]\nworkers = 9000",
            '[tasks.bake]\nworkers = "auto"',
        ),
        _page(
            "W404",
            "`loop` without a cycle",
            "A `loop` queue never makes its writers wait, so it has no bound; where no cycle goes "
            "through it, that is only a danger.",
            '[queues]\nq = { loop = true }\n[tasks.a]\noutputs = ["q"]\n[tasks.b]\ninputs = ["q"]',
            '[queues]\nq = {}\n[tasks.a]\noutputs = ["q"]\n[tasks.b]\ninputs = ["q"]',
        ),
    ]
)
