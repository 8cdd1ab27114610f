"""What can be wrong with a file beyond its keys: structure, and the functions that it names."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import load_config

from runner import check
from runner.errors import ConfigError
from runner.plugins import PluginSet
from runner.problems import Problem, render_problems

PLUGIN = """
import enum, functools, datetime, urllib.error
from dataclasses import dataclass
from pathlib import Path
import pydantic
from runner import Context, Inbox, Outbox, task

class Color(enum.Enum):
    red = "red"
    blue = "blue"

@dataclass
class Size:
    width: int
    height: int = 1

class Model(pydantic.BaseModel):
    name: str
    tags: list[str] = []

class Odd(Exception): ...

@task
def make(count: int, *, name: str = "x"): yield count
@task
def plain(): ...
@task
def eat(item, *, times: float = 1.0): ...
@task
def eat_more(item, first, second=2, /, *rest: int, **more: str): ...
@task
def rich(path: Path, when: datetime.datetime, color: Color, size: Size, model: Model, maybe: int | None = None): ...
@task
def knows(item, context: Context, extra=1): ...
@task
def boxed(inbox: Inbox, outbox: Outbox, *, limit: int): ...
@task(mode="thread")
def threaded(item): ...
@task
class Keep:
    def __init__(self, label: str): ...
    def __call__(self, item): ...
@task
class Needs:
    def __call__(self, item, other): ...
@task
def foreign(thing: functools.partial): ...
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("project")
    (path / "plugins").mkdir()
    (path / "plugins" / "things.py").write_text(PLUGIN)
    return path


def load(folder, text):
    (folder / "tasks.toml").write_text(textwrap.dedent(text))
    return load_config(folder / "tasks.toml", env={})


def found(folder, text):
    """(code, line, column, message) of what the file alone says."""
    return [
        (each.code, each.place.line, each.place.column, each.message) for each in check.check_file(load(folder, text))
    ]


def bound(folder, text):
    """The problems and the arguments that the functions give."""
    loaded = load(folder, text)
    plugins = PluginSet(loaded.folder, loaded.plugins)
    return check.check_functions(
        loaded, {word: plugins.find_function(task.call) for word, task in loaded.tasks.items()}
    )


def said(folder, text):
    problems, _ = bound(folder, text)
    return [f"{each.code} {each.place.line}:{each.place.column} {each.message}" for each in problems]


# -- structure --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[queues]\nq = {}\n[tasks.a]\ninputs = "q"', [("E204", 2, 1, "no task writes queue `q`")]),
        ('[queues]\nq = {}\n[tasks.a]\noutputs = "q"', [("E205", 2, 1, "no task reads queue `q`")]),
        ("[queues]\nq = {}\n[tasks.a]", [("E204", 2, 1, "no task writes queue `q`, and none reads it")]),
        (
            '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"\n[tasks.c]\ninputs = "q"',
            [("E206", 2, 1, "queue `q` is read by `b` and `c`, but `fanout` is not set")],
        ),
        (
            '[queues]\np = {}\nq = {}\n[tasks.a]\ninputs = "p"\noutputs = "q"\n[tasks.b]\ninputs = "q"\noutputs = "p"',
            [("E207", 2, 1, "a cycle without `loop`: a -> q -> b -> p -> a")],
        ),
        (
            '[queues]\np = {}\n[tasks.a]\ninputs = "p"\noutputs = "p"',
            [("E207", 2, 1, "a cycle without `loop`: a -> p -> a")],
        ),
        (
            '[tasks.a]\nafter = "b"\n[tasks.b]\nafter = "c"\n[tasks.c]\nafter = "a"',
            [("E208", 2, 1, "tasks that wait for each other: a after b, b after c, c after a")],
        ),
        ('[tasks.a]\nafter = "a"', [("E208", 2, 1, "tasks that wait for each other: a after a")]),
        (
            '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\nafter = "b"\n[tasks.b]\ninputs = "q"',
            [("E208", 5, 1, "tasks that wait for each other: a after b, b reads q of a")],
        ),
        (
            '[tasks.a]\nmode = "thread"\ntimeout = "1s"',
            [("E209", 3, 1, "task `a` has a `timeout`, but runs in threads; a thread cannot be killed")],
        ),
        (
            '[defaults.task]\nmode = "thread"\ntimeout = "1s"\n[tasks.a]',
            [("E209", 3, 1, "task `a` has a `timeout`, but runs in threads; a thread cannot be killed")],
        ),
        ("[tasks.a]\nbatch = 3", [("E210", 2, 1, "`batch` of task `a` has no effect: the task has no inputs")]),
        (
            '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\nkey = "."\n[tasks.b]\ninputs = "q"\nkey = "."',
            [("E210", 8, 1, "`key` of task `b` has no effect: the task has inputs")],
        ),
        ('[tasks.a]\nkey = "."', [("E210", 2, 1, "`key` of task `a` has no effect: it has no outputs")]),
        (
            '[queues]\nq = {}\nd = {}\n[tasks.a]\noutputs = ["q", "d"]\n'
            '[tasks.b]\ninputs = "q"\ndead = "d"\n[tasks.c]\ninputs = "d"',
            [("E212", 5, 17, "task `a` writes items to `d`, which holds the dead letters of task `b`")],
        ),
        ("[tasks.a]\noutputs = { small = [] }", [("E212", 2, 13, "port `small` of task `a` leads to no queue")]),
        ("[params]\nx = 1\n[tasks.a]", [("W401", 2, 1, "param `x` is used nowhere")]),
        (
            '[queues]\nq = {loop = true}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"',
            [("W404", 2, 6, "queue `q` has `loop = true` but is not part of a cycle, so it is unbounded")],
        ),
    ],
)
def test_what_the_file_alone_says(folder, text, expected):
    assert found(folder, text) == expected


def test_many_more_processes_than_cores_is_a_warning(folder):
    [(code, line, _, message)] = found(folder, "[tasks.a]\nworkers = 9999")
    assert (code, line) == ("W403", 2)
    assert "9999 processes" in message
    assert found(folder, '[tasks.a]\nworkers = 9999\nmode = "thread"') == []


@pytest.mark.parametrize(
    "text",
    [
        "[tasks.a]",
        '[queues]\nq = {}\nd = {}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"\ndead = "d"\n[tasks.c]\ninputs = "d"',
        '[queues]\nq = {fanout = "copy"}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"\n[tasks.c]\ninputs = "q"',
        '[queues]\ns = {}\np = {loop = true}\n[tasks.a]\noutputs = "s"\n[tasks.b]\ninputs = ["s", "p"]\noutputs = "p"',
        '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"\nafter = "a"',
        '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\nafter = { b = "started" }\n[tasks.b]\ninputs = "q"',
        "[defaults.task]\nbatch = 3\n[tasks.a]",
    ],
)
def test_a_good_file_has_no_problem(folder, text):
    assert found(folder, text) == []


def test_a_queue_whose_reader_is_not_enabled_says_so(folder):
    text = '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"\nenabled = false'
    [problem] = check.check_file(load(folder, text))
    assert problem.code == "E205"
    assert problem.hint == "`b` is not enabled"


def test_every_cycle_is_named(folder):
    text = """
    [queues]
    p = {}
    q = {}
    r = {}
    [tasks.a]
    inputs = ["p", "q"]
    outputs = ["q", "r"]
    [tasks.b]
    inputs = "r"
    outputs = "p"
    """
    assert [message for code, *_, message in found(folder, text) if code == "E207"] == [
        "a cycle without `loop`: a -> r -> b -> p -> a",
        "a cycle without `loop`: a -> q -> a",
    ]


def test_on_error_depends_on_inputs(folder):
    loaded = load(folder, '[queues]\nq = {}\n[tasks.a]\noutputs = "q"\n[tasks.b]\ninputs = "q"')
    assert (loaded.tasks["a"].on_error, loaded.tasks["b"].on_error) == ("fail", "dead")


# -- functions --------------------------------------------------------------------------------

QUEUE = '[queues]\nq = {}\n[tasks.w]\ncall = "make"\nargs = [1]\noutputs = "q"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tasks.make]", ["E302 1:8 function `make` needs `count`"]),
        ("[tasks.make]\nwith = { name = 'a' }", ["E302 2:1 function `make` needs `count`"]),
        ("[tasks.make]\nwith = { cuont = 1 }", ["E303 2:10 function `make` has no argument `cuont`"]),
        (
            "[tasks.make]\nargs = [1]\nwith = { count = 1 }",
            ["E303 3:10 function `make` cannot be given `count`: `args` gives it"],
        ),
        (
            "[tasks.make]\nargs = [1, 2]",
            ["E305 2:12 function `make` takes 1 positional argument, not 2"],
        ),
        (
            QUEUE + '[tasks.plain]\ninputs = "q"',
            ["E306 7:8 function `plain` takes no item, and the task has inputs"],
        ),
        (
            QUEUE + '[tasks.eat]\ninputs = "q"\nwith = { item = 3 }',
            ["E303 9:10 function `eat` cannot be given `item`: it is the item"],
        ),
        (
            QUEUE + '[tasks.knows]\ninputs = "q"\nargs = [1]',
            ["E305 9:9 a positional argument of function `knows` would be `context`, and runner fills it"],
        ),
        (
            QUEUE + '[tasks.knows]\ninputs = "q"\nwith = { context = 1 }',
            ["E303 9:10 function `knows` cannot be given `context`: runner fills it"],
        ),
        (QUEUE + '[tasks.eat_more]\ninputs = "q"', ["E302 7:8 function `eat_more` needs `first`"]),
        (QUEUE + '[tasks.Keep]\ninputs = "q"', ["E302 7:8 function `Keep` needs `label`"]),
        (
            QUEUE + '[tasks.Needs]\ninputs = "q"',
            [
                "E302 7:8 the `__call__` of function `Needs` needs `other`, "
                "which a file cannot give: `with` goes to the constructor"
            ],
        ),
        (
            "[tasks.make]\nargs = ['eight']",
            ['E304 2:9 `count` of function `make` must be int, not "eight"'],
        ),
        (
            "[tasks.foreign]\nargs = ['eight']",
            ["E304 2:9 `thing` of function `foreign` must be partial, which a file cannot write"],
        ),
        (
            QUEUE + '[tasks.threaded]\ninputs = "q"\ntimeout = "1s"',
            ["E209 9:1 task `threaded` has a `timeout`, but its function declares threads (at "],
        ),
        (
            "[tasks.plain]\nretry_on = ['ValueErorr', 'int', 'Odd', 'OSError', 'URLError', 'urllib.error.URLError']",
            [
                "E307 2:13 task `plain` retries on `ValueErorr`, which is not known",
                "E307 2:27 task `plain` retries on `int`, which is not an exception",
                "E307 2:52 task `plain` retries on `URLError`, which is not known",
            ],
        ),
        (
            "[tasks.plain]\nretry_on = ['multiprocessing.TimeoutError']",
            [
                "E307 2:13 task `plain` retries on `multiprocessing.TimeoutError`, whose own name is "
                "`multiprocessing.context.TimeoutError`"
            ],
        ),
    ],
)
def test_what_the_functions_say(folder, text, expected):
    problems = said(folder, text)
    assert len(problems) == len(expected), problems
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    "text",
    [
        "[tasks.make]\nargs = [1]",
        "[tasks.make]\nwith = { count = 1, name = 'a' }",
        QUEUE + '[tasks.eat]\ninputs = "q"',
        QUEUE + '[tasks.eat_more]\ninputs = "q"\nargs = [1, 2, 3, 4]\nwith = { any = "thing" }',
        QUEUE + '[tasks.knows]\ninputs = "q"\nwith = { extra = 1 }',
        QUEUE + '[tasks.Keep]\ninputs = "q"\nwith = { label = "a" }',
        QUEUE + '[tasks.boxed]\ninputs = "q"\nwith = { limit = 1 }',
        QUEUE + '[tasks.r]\ncall = "math:sqrt"\ninputs = "q"',
        QUEUE + '[tasks.r]\ncall = "builtins:int"\ninputs = "q"',
        QUEUE + '[tasks.r]\ncall = "pathlib:Path"\ninputs = "q"',
        QUEUE + '[tasks.r]\ncall = "builtins:print"\ninputs = "q"\nwith = { end = "" }',
        QUEUE + '[tasks.r]\ncall = "builtins:max"\ninputs = "q"',
    ],
)
def test_functions_that_fit(folder, text):
    assert said(folder, text) == []


def test_an_unknown_argument_shows_the_nearest_and_the_signature_with_its_place(folder):
    [problem], _ = bound(folder, "[tasks.make]\nwith = { cuont = 1 }")
    file = folder / "plugins" / "things.py"
    line = next(at for at, text in enumerate(file.read_text().split("\n"), 1) if text.startswith("def make")) - 1
    assert problem.hint == f"did you mean `count`?\nmake(count: int, *, name: str = 'x') at {file}:{line}"


def test_arguments_are_converted_by_their_hints(folder):
    text = """
    [tasks.rich.with]
    path = "a.txt"
    when = 2024-05-17T10:00:00Z
    color = "red"
    size = { width = "3" }
    model = { name = "m", tags = ["x"] }
    maybe = 4
    """
    problems, arguments = bound(folder, text)
    assert problems == []
    _, kwargs = arguments["rich"]
    assert kwargs["path"] == Path("a.txt")
    assert kwargs["when"] == dt.datetime(2024, 5, 17, 10, tzinfo=dt.UTC)
    assert kwargs["color"].name == "red"
    assert (kwargs["size"].width, kwargs["size"].height) == (3, 1)
    assert kwargs["model"].tags == ["x"]
    assert kwargs["maybe"] == 4


def test_a_wrong_part_of_a_model_is_named(folder):
    [problem] = said(folder, "[tasks.rich]\nargs = ['a', 2024-05-17T10:00:00Z, 'red', 1, { name = 'a', tags = [3] }]")[
        1:
    ]
    assert "`model` of function `rich` must be Model, not a table (`tags.0` must be a valid string)" in problem


def test_a_process_needs_a_function_that_it_can_import(folder, monkeypatch):
    loaded = load(folder, "[tasks.plain]")
    plugins = PluginSet(loaded.folder, loaded.plugins)
    function = plugins.find_function("plain")
    monkeypatch.setattr(sys.modules[function.reference.module], "plain", None)
    [problem], _ = check.check_functions(loaded, {"plain": function})
    assert problem.code == "E308"


def test_what_a_function_declares_is_below_what_the_file_says(folder):
    (folder / "plugins" / "declares.py").write_text(
        "from runner import task\n@task(mode='thread', batch=5, attempts=3, workers=2)\ndef many(items): ...\n"
        "@task(mode='thred', bacth=5)\ndef slip(items): ...\n"
    )
    loaded = load(folder, "[defaults.task]\nattempts = 7\n" + QUEUE + '[tasks.many]\ninputs = "q"\nworkers = ["a"]')
    found = check.check_everything(loaded)
    task = found.tasks["many"]
    assert found.problems == []
    assert (task.mode, task.batch.items, task.attempts, task.workers) == ("thread", 5, 7, ("a",))
    loaded = load(folder, QUEUE + '[tasks.slip]\ninputs = "q"')
    said = [
        (each.code, each.message.partition(" at ")[0], each.hint) for each in check.check_everything(loaded).problems
    ]
    assert said == [
        ("E309", "`mode` of the declaration", "did you mean `thread`?"),
        ("E309", "unknown key `bacth` in the declaration", "did you mean `batch`?"),
    ]
    (folder / "plugins" / "declares.py").unlink()


def test_declared_workers_are_automatic_only_if_they_say_so(folder):
    plugin = folder / "plugins" / "places.py"
    plugin.write_text(
        "from runner import task\n@task(workers='auto')\ndef all_places(item): ...\n"
        "@task(workers=3)\ndef three(item): ...\n@task(workers='2..4')\ndef some(item): ...\n"
    )
    tables = "".join(f'[tasks.{name}]\ninputs = "q"\n' for name in ("all_places", "three", "some"))
    found = check.check_everything(load(folder, QUEUE.replace("{}", '{ fanout = "share" }') + tables))
    plugin.unlink()
    assert found.problems == []
    tasks = found.tasks
    automatic = {name: task.auto_workers for name, task in tasks.items()}
    assert automatic == {"all_places": True, "three": False, "some": False, "w": False}
    assert (len(tasks["three"].workers), len(tasks["some"].workers), tasks["some"].least_workers) == (3, 4, 2)


# -- raising ----------------------------------------------------------------------------------


def test_warnings_alone_raise_nothing(folder):
    loaded = load(folder, "[params]\nx = 1\n[tasks.a]")
    check.raise_if_errors(check.check_file(loaded), loaded)


def test_everything_is_raised_at_once_in_the_order_of_the_file(folder):
    loaded = load(folder, "[params]\nx = 1\n[queues]\nq = {}\n[tasks.a]")
    problems = [Problem("E301", "no such function", loaded.place("tasks", "a")), *check.check_file(loaded)]
    with pytest.raises(ConfigError) as raised:
        check.raise_if_errors(problems, loaded)
    assert [each.code for each in raised.value.problems] == ["W401", "E204", "E301"]
    assert str(raised.value) == render_problems(raised.value.problems)
    assert "4 | q = {}\n  | ^" in str(raised.value)


def test_a_secret_is_in_no_message(folder):
    loaded = load(
        folder,
        "[params]\nkey = { default = 'hunter2', secret = true }\n[tasks.make]\nargs = ['${key}']\nwith = { nmae = 'hunter2' }",
    )
    plugins = PluginSet(loaded.folder, loaded.plugins)
    problems, _ = check.check_functions(loaded, {"make": plugins.find_function("make")})
    with pytest.raises(ConfigError) as raised:
        check.raise_if_errors(problems, loaded)
    assert "hunter2" not in str(raised.value)


def test_pydantic_is_not_imported_when_nothing_needs_it(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "p.py").write_text("from runner import task\n@task\ndef a(n: int, *, s: str): ...\n")
    (tmp_path / "tasks.toml").write_text("[tasks.a]\nargs = [1]\nwith = { s = 'x' }\n")
    program = (
        "import sys; from runner import config, runs; runs.prepare_plan(config.examine('tasks.toml')); "
        "print([name for name in ('pydantic', 'typer', 'rich') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert out.stdout == "[]\n"
