"""The commands that read: what they print, how they end, and that they execute nothing they need not."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import textwrap

import pytest
from helpers import ROOT, load_config

from runner.cli import app
from runner.problems import Problem

TASKS = """
title = "Bakery"
[params]
loaves = { default = 3, min = 1, help = "loaves that each baker bakes" }
kind = { default = "rye", choices = ["rye", "wheat"], env = "KIND" }
key = { default = "hunter2", secret = true }
out = { type = "path", required = true }
[defaults.task]
attempts = 2
[queues]
bread = { size = 4 }
[tasks.bake]
with = { count = "${loaves}", key = "${key}", out = "${out}", kind = "a ${kind} loaf" }
mode = "thread"
workers = ["pa", "pb"]
outputs = "bread"
backoff = { factor = 3 }
[tasks.eat]
env = { KEY = "x${key}x" }
inputs = "bread"
help = "eats"
batch = 4
[tasks.sing]
after = "bake"
enabled = false
"""
PLUGIN = """
from pathlib import Path
Path("executed").touch()
from runner import task

@task
def bake(*, count: int, key: str, out: Path, kind: str):
    "Bake bread."
@task
def eat(loaves): ...
@task
def sing(): ...
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KIND", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "bakery.py").write_text(PLUGIN)
    (tmp_path / "tasks.toml").write_text(TASKS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("runner.local_modules.")]:
        del sys.modules[name]


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["runner", *args])
        code = app.main()
        out, err = capsys.readouterr()
        assert "hunter2" not in out + err
        assert "Traceback" not in err
        return code, out, err

    return call


def executed(folder):
    return (folder / "executed").exists()


# -- check ------------------------------------------------------------------------------------


def test_check_of_a_good_file(run, folder):
    code, out, _ = run("check", "-p", "out=x")
    assert (code, out) == (0, "tasks.toml: no problems (3 tasks, 1 queue)\n")
    assert executed(folder)


def test_check_static_executes_nothing(run, folder):
    code, out, _ = run("check", "--static", "-p", "out=x")
    assert (code, out) == (0, "tasks.toml: no problems (3 tasks, 1 queue; functions not looked at)\n")
    assert not executed(folder)


def test_a_required_param_without_a_value_is_a_warning_unless_strict(run):
    code, out, _ = run("check")
    assert code == 0
    assert "E112 param `out` is required and has no value" in out
    assert out.endswith("0 errors, 1 warning. `runner explain E112` says more.\n")
    assert run("check", "--strict")[0] == 3
    code, _, err = run("run")
    assert code == 3
    assert err.endswith("1 error, 0 warnings. `runner explain E112` says more.\n")


def test_check_of_several_files_and_formats(run, folder):
    (folder / "bad.toml").write_text("[tasks.bake]\nmood = 1\n")
    code, out, _ = run("check", "bad.toml", "tasks.toml", "--static", "-p", "out=x", "--format", "json")
    assert code == 3
    assert json.loads(out)[-1] == {
        "file": "bad.toml",
        "line": 2,
        "column": 1,
        "end_column": 5,
        "code": "E104",
        "severity": "error",
        "message": "unknown key `mood` in task `bake`",
        "hint": "did you mean `mode`?",
    }
    code, out, _ = run("check", "bad.toml", "--static", "--format", "github")
    assert code == 3
    assert out == (
        "::error file=bad.toml,line=2,endLine=2,col=1,endColumn=4,title=E104::"
        "unknown key `mood` in task `bake`%0Adid you mean `mode`?\n"
    )
    assert run("check", "--format", "xml")[0] == 2


def test_check_without_a_file(run, folder):
    (folder / "tasks.toml").unlink()
    code, _, err = run("check")
    assert code == 2
    assert err == "there is no tasks.toml here; name a file: runner check FILE\n"
    code, out, _ = run("check", "nowhere.toml")
    assert code == 3
    assert out.startswith("nowhere.toml: E101 the file does not exist\n")


# -- show -------------------------------------------------------------------------------------


def test_show_is_a_file_that_means_the_same(run, folder):
    code, out, _ = run("show", "-p", "out=x.txt", "-p", "loaves=7")
    assert code == 0
    assert not executed(folder)
    (folder / "shown.toml").write_text(
        "[params]\nkey = { default = 'hunter2', secret = true }\n" + out.replace("title", "#title")
    )
    one = load_config("tasks.toml", params={"out": "x.txt", "loaves": "7"})
    other = load_config("shown.toml")
    assert one.run == other.run
    assert one.queues == other.queues
    for name, task in one.tasks.items():
        kwargs = {key: str(value) if key == "out" else value for key, value in task.kwargs.items()}
        assert dataclasses.replace(task, kwargs=kwargs) == other.tasks[name]


def test_show_says_where_values_come_from(run, folder, monkeypatch):
    monkeypatch.setenv("KIND", "wheat")
    code, out, _ = run("show", "--origins", "-p", "loaves=5", "--set", "tasks.eat.rate=5/s")
    assert code == 0
    table = out.split("[tasks.bake]")[1].split("[tasks.eat]")[0]

    def origin(key, text=table):
        return re.search(rf"^{key} = (.*?)  +# (.*)$", text, re.MULTILINE).groups()

    assert origin("mode") == ('"thread"', "tasks.toml:14:1")
    assert origin("call") == ('"bake"', "the task's own name")
    assert origin("attempts") == ("2", "tasks.toml:9:1 [defaults.task]")
    assert origin("backoff") == ('{ first = "100ms", factor = 3, max = "30s", jitter = 0.1 }', "tasks.toml:17:1")
    assert origin("outputs") == ('{ default = ["bread"] }', "tasks.toml:16:1")
    assert origin("ordered") == ("false", "built in")
    value, where = origin("with")
    assert value == '{ count = 5, key = "${key}", out = "${out}", kind = "a wheat loaf" }'
    assert where == (
        "tasks.toml:13:1 (key: default, tasks.toml:6:1; kind: environment variable KIND; loaves: -p; out: not given)"
    )
    assert origin("rate", out.split("[tasks.eat]")[1]) == ('"5/s"', "--set tasks.eat.rate")
    assert "# param key = ***" in out
    assert not executed(folder)


# -- list, explain, schema, run ---------------------------------------------------------------


def test_list_tasks_and_params_execute_nothing(run, folder):
    code, out, _ = run("list")
    assert code == 0
    assert out == textwrap.dedent("""\
        bake    2 threads  -> bread
        eat     1 worker   bread ->  eats
        sing    1 worker             after bake; not enabled
        """)
    assert json.loads(run("list", "tasks", "--json")[1])[0]["outputs"] == {"default": ["bread"]}
    _, out, _ = run("list", "params")
    assert out == textwrap.dedent("""\
        -p loaves=  int   = 3       min 1; loaves that each baker bakes
        -p kind=    str   = rye     one of rye, wheat; or $KIND
        -p key=     str   = ***
        -p out=     path  required
        """)
    assert run("run", "--help-params")[1] == out
    assert json.loads(run("list", "params", "--json")[1])[2]["default"] == "***"
    assert not executed(folder)


def test_list_functions_and_plugins(run, folder):
    code, out, _ = run("list", "functions")
    assert code == 0
    assert out.split("\n")[:2] == [
        "bakery.bake(*, count: int, key: str, out: Path, kind: str)",
        "    Bake bread.  (plugins/bakery.py:6)",
    ]
    [bake, *_] = json.loads(run("list", "functions", "--json")[1])
    assert (bake["name"], bake["plugin"], bake["line"]) == ("bake", "bakery", 6)
    (folder / "plugins" / "broken.py").write_text("import nowhere_at_all")
    code, out, _ = run("list", "plugins")
    assert code == 0
    assert "broken: could not be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'" in out
    assert run("list", "things")[0] == 2


def test_explain(run):
    code, out, _ = run("explain", "e104")
    assert code == 0
    assert out.startswith("E104: an unknown key\n")
    assert "Wrong:" in out
    assert all(len(line) <= 80 for line in out.split("\n"))
    assert "E203  an unknown queue" in run("explain")[1]
    code, _, err = run("explain", "E1004")
    assert code == 2
    assert "did you mean `E104`?" in err


def test_schema(run):
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_dry_run_starts_nothing_and_shows_no_secret(run):
    code, out, _ = run("run", "--dry-run", "-p", "out=x")
    assert code == 0
    assert out.startswith("Bakery: 2 tasks, 1 queue, 2 threads and 1 process. Nothing was started.\n")
    assert 'bake(count=3, key="${key}", out="x", kind="a rye loaf")' in out
    assert "not enabled: sing" in out


def test_some_tasks_only(run):
    code, out, _ = run("run", "-n", "-p", "out=x", "-t", "bake", "-t", "eat")
    assert code == 0
    assert "not enabled: sing" in out
    code, _, err = run("run", "-n", "-p", "out=x", "--skip", "eat")
    assert code == 3
    assert "E205 no task reads queue `bread`" in err
    assert "`eat` is not enabled" in err
    code, _, err = run("run", "-n", "-p", "out=x", "--skip", "eet")
    assert code == 2
    assert err == "unknown task `eet`; did you mean `eat`?\n"


@pytest.mark.parametrize("form", ["text", "mermaid", "dot", "svg"])
def test_graph_executes_nothing(run, folder, form):
    code, out, _ = run("graph", "--format", form)
    assert code == 0
    assert "bake" in out
    assert "bread" in out
    assert not executed(folder)


def test_runner_alone(run, folder):
    code, out, _ = run()
    assert code == 0
    assert out.startswith("Bakery\n\nbake    2 threads")
    assert len(re.findall(r"^  runner ", out, re.MULTILINE)) == 3
    assert not executed(folder)
    (folder / "tasks.toml").write_text("[tasks")
    code, out, _ = run()
    assert code == 0
    assert "E102" in out
    (folder / "tasks.toml").unlink()
    code, out, _ = run()
    assert code == 0
    assert len(re.findall(r"^  runner ", out, re.MULTILINE)) == 3


VERBS = list(app.RunnerGroup.verbs)


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_examples(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"Usage: runner {verb}" in out
    if verb not in {"dead", "new"}:  # groups of commands
        assert re.search(rf"^  Examples:\n    runner {verb}", out, re.MULTILINE)
    assert all(len(line) <= 80 for line in out.split("\n"))


def test_help_and_wrong_command_lines(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in VERBS)
    code, _, err = run("chekc")
    assert code == 2
    assert "Did you mean 'check'" in err
    assert run("check", "--sttrict")[0] == 2
    code, _, err = run("check", "-p", "hunter2")
    assert code == 2
    assert err == "--param needs NAME=VALUE\n"
    assert re.fullmatch(r"runner \d+\.\d+.*\n", run("--version")[1])


def test_a_secret_is_in_no_message(run):
    for args in (
        ["-p", "key=hunter2", "-p", "loaves=x"],
        ["-p", "key=hunter2", "-p", "keys=1"],
        ["--set", "params.key.min=100"],
    ):
        assert run("check", *args)[0] == 3
        assert run("run", *args)[0] == 3


def test_a_fault_of_runners_own_is_exit_70(run, monkeypatch):
    monkeypatch.delenv("RUNNER_DEBUG", raising=False)
    monkeypatch.setattr(Problem, "__str__", lambda self: 1 / 0)
    code, _, err = run("check", "nowhere.toml")
    assert code == 70
    assert "a fault of runner's own: ZeroDivisionError" in err


# -- completion -------------------------------------------------------------------------------


@pytest.fixture
def complete(run, monkeypatch):
    def words(line):
        monkeypatch.setenv("_RUNNER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        return run()[1].split()

    return words


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runner sc", ["schema"]),
        ("runner check ta", ["tasks.toml"]),
        ("runner run pl", ["plugins/"]),
        ("runner run -p ", ["loaves=", "kind=", "key=", "out="]),
        ("runner run tasks.toml -p kind=", ["kind=rye", "kind=wheat"]),
        ("runner run --set tasks.eat.tim", ["tasks.eat.timeout="]),
        ("runner run -t ", ["bake", "eat", "sing"]),
        ("runner run --skip s", ["sing"]),
        ("runner explain W40", ["W401", "W403", "W404", "W406", "W407", "W408", "W409"]),
        ("runner list f", ["functions"]),
        ("runner graph --format m", ["mermaid"]),
        ("runner check --st", ["--strict", "--static"]),
    ],
)
def test_completion(complete, folder, line, expected):
    assert complete(line) == expected
    assert not executed(folder)


# -- starting ---------------------------------------------------------------------------------


NUMBERS = ["1", "2", "007", "1000", "1001", "0", "-1", "+3", "1.0", "1_0", "x", "", " 5", "٣", "9" * 30]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_read_and_refused_as_typer_does(run, folder, monkeypatch, number):
    """With our short cut, which spares the import of pydantic, and without it."""
    import typer.core

    coercion = pytest.importorskip("typer._coercion", reason="this typer has no such seam")
    command = ("run", "tasks.toml", "--dry-run", "-j", number)
    ours = run(*command)
    monkeypatch.setattr(typer.core, "build_runtime_param", coercion.build_runtime_param)
    assert run(*command) == ours


def test_typer_converts_as_it_does_without_our_short_cut(run):
    import typer.core

    run("--version")  # our short cut is taken when the first command is built
    assert typer.core.build_runtime_param.__module__ == "runner.cli.app", "typer has changed: see runner/cli/app.py"
    assert run("list", "params", str(ROOT / "tasks.toml"), "--json")[0] == 0
