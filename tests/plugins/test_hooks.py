"""The five hooks, from plugins beside the file: where they are called, what they give, and what if they raise."""

from __future__ import annotations

import json
import re

import pytest

QUEUE = """
    [queues]
    numbers = {{}}

    [tasks.make]
    mode    = "{mode}"
    outputs = ["numbers"]

    [tasks.take]
    mode    = "{mode}"
    workers = 2
    inputs  = ["numbers"]
"""
WORK = """
    from runner import task

    @task
    def make():
        yield from range(40)

    @task
    def take(item):
        pass
"""
SPAWNED = pytest.param("process", "spawn", marks=pytest.mark.slow)
MODES = pytest.mark.parametrize("mode", ["thread", "process"])


def lines(outcome, mark):
    return [line.partition(mark)[2].strip() for line in (outcome.out + outcome.err).splitlines() if mark in line]


# -- runner_event -----------------------------------------------------------------------------

TELL = """
    import dataclasses, json, pathlib, threading
    from runner import hookimpl

    @hookimpl
    def runner_event(event):
        record = [type(event).__name__, threading.current_thread().name, dataclasses.asdict(event)]
        with pathlib.Path("events.jsonl").open("a") as file:
            print(json.dumps(record), file=file)
"""


def heard(made):
    return [json.loads(line) for line in (made.path / "events.jsonl").read_text().splitlines()]


@MODES
def test_events_come_in_order_in_the_supervisors_thread_and_never_per_item(project, mode):
    made = project({"tasks.toml": QUEUE.format(mode=mode), "plugins/work.py": WORK, "plugins/tell.py": TELL})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    found = heard(made)
    names = [name for name, _, _ in found]
    assert (names[0], names[-1]) == ("RunStarted", "RunEnded")
    assert {thread for _, thread, _ in found} == {"MainThread"}
    times = [event["at"] for _, _, event in found]
    assert times == sorted(times)
    assert len(found) < 20
    ended = found[-1][2]
    assert (ended["read"], ended["done"], ended["dead"], ended["exit_code"]) == (40, 40, 0, 0)
    progress = [event for name, _, event in found if name == "Progress"][-1]
    assert progress["queues"] == {"numbers": 0}
    assert progress["tasks"]["take"]["done"] == progress["tasks"]["make"]["sent"] == 40


@pytest.mark.slow
def test_progress_comes_four_times_a_second_while_somebody_works(project):
    def work():
        import time

        from runner import task

        @task
        def doze():
            time.sleep(1.1)

    made = project({"tasks.toml": "[tasks.doze]\n", "plugins/work.py": work, "plugins/tell.py": TELL})
    assert made.run("tasks.toml").exit == 0
    progress = [event for name, _, event in heard(made) if name == "Progress"]
    assert 4 <= len(progress) <= 8
    assert any(event["tasks"]["doze"]["executing"] == 1 for event in progress)


def test_without_a_listener_nobody_counts(project):
    def work():
        import sys

        from runner import task

        @task(mode="thread")
        def look():
            print("pluggy" in sys.modules)

    outcome = project({"tasks.toml": "[tasks.look]\n", "plugins/work.py": work}).run("tasks.toml")
    assert lines(outcome, "look ") == ["| False"] or "False" in outcome.out, outcome


@MODES
def test_a_hook_that_raises_is_noted_once_and_silenced_and_the_run_goes_on(project, mode):
    raises = """
        from runner import hookimpl

        @hookimpl
        def runner_event(event):
            raise ValueError("no ears")
    """
    made = project(
        {
            "tasks.toml": QUEUE.format(mode=mode),
            "plugins/work.py": WORK,
            "plugins/a_deaf.py": raises,
            "plugins/tell.py": TELL,
        }
    )
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert outcome.err.count("hears nothing more of this run: its hook runner_event raised ValueError: no ears") == 1
    assert re.search(r"plugin `a_deaf` \(.*plugins/a_deaf\.py\)", outcome.err)
    assert 'plugins/a_deaf.py", line 5' in outcome.err
    assert heard(made)[-1][0] == "RunEnded"


# -- runner_worker ----------------------------------------------------------------------------

AROUND = """
    import os, sys
    from contextlib import contextmanager
    from runner import hookimpl

    @hookimpl
    @contextmanager
    def runner_worker(worker):
        print("in", worker.task, worker.worker, worker.mode, worker.pid == os.getpid(), "pluggy" in sys.modules)
        try:
            yield
        finally:
            print("out", worker.task)
"""
ONE = '[tasks.look]\nmode = "{mode}"\n'
LOOK = """
    from runner import task

    @task
    def look():
        print("between")
"""


@pytest.mark.parametrize(("mode", "method"), [("thread", ""), ("process", "forkserver"), SPAWNED])
def test_a_worker_is_surrounded_in_whatever_it_lives(project, mode, method):
    made = project({"tasks.toml": ONE.format(mode=mode), "plugins/work.py": LOOK, "plugins/around.py": AROUND})
    outcome = made.run("tasks.toml", "--log", "raw", env={"RUNNER_START_METHOD": method})
    assert outcome.exit == 0, outcome
    has_pluggy = mode == "thread"  # the supervisor's own process
    assert outcome.out.splitlines() == [f"in look look {mode} True {has_pluggy}", "between", "out look"], outcome


@MODES
def test_a_hook_that_returns_none_surrounds_nothing_and_may_take_no_argument(project, mode):
    plain = 'from runner import hookimpl\n@hookimpl\ndef runner_worker():\n    print("here")\n'
    made = project({"tasks.toml": ONE.format(mode=mode), "plugins/work.py": LOOK, "plugins/around.py": plain})
    outcome = made.run("tasks.toml", "--log", "raw")
    assert (outcome.exit, outcome.out) == (0, "here\nbetween\n"), outcome


@MODES
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_raises_fails_the_worker_and_names_its_plugin(project, mode, when):
    raises = """
        from contextlib import contextmanager
        from runner import hookimpl

        @hookimpl
        @contextmanager
        def runner_worker(worker):
            if WHEN == "before":
                raise OSError("no licence")
            yield
            raise OSError("no licence")
    """.replace("WHEN", repr(when))
    made = project({"tasks.toml": ONE.format(mode=mode), "plugins/work.py": LOOK, "plugins/around.py": raises})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 1, outcome
    assert "OSError: no licence" in outcome.err
    assert "in hook runner_worker of plugin `around`" in outcome.err
    assert ("between" in outcome.out) == (when == "after")


# -- runner_tasks -----------------------------------------------------------------------------

GIVEN = """
    import math
    from runner import TaskFunction, hookimpl

    def _teller(word):
        def tell():
            print(word)
        return tell

    @hookimpl
    def runner_tasks():
        return {"moo": _teller("moo"), "root": TaskFunction("root", math.sqrt, options={"mode": "thread"})}
"""


@pytest.mark.parametrize(("mode", "method"), [("thread", ""), ("process", "forkserver"), SPAWNED])
@pytest.mark.parametrize("call", ["moo", "farm.moo"])
def test_generated_functions_run_in_every_kind_of_worker(project, mode, method, call):
    toml = f'[tasks.x]\ncall = "{call}"\nmode = "{mode}"\n'
    made = project({"tasks.toml": toml, "plugins/farm.py": GIVEN})
    outcome = made.run("tasks.toml", env={"RUNNER_START_METHOD": method})
    assert outcome.exit == 0, outcome
    assert "moo" in outcome.out
    shown = made.run("plugins", "--json", verb="list").json
    assert [(each["name"], each["functions"], each["hooks"]) for each in shown if each["name"] == "farm"] == [
        ("farm", ["moo", "root"], ["runner_tasks"])
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('raise RuntimeError("no farm")', "RuntimeError: no farm"),
        ("return [3]", "must give names and callables"),
    ],
)
def test_runner_tasks_that_fails_harms_only_who_needs_it(project, body, expected):
    text = f"from runner import hookimpl, task\n@task\ndef own(): ...\n@hookimpl\ndef runner_tasks():\n    {body}\n"
    made = project({"tasks.toml": '[tasks.own]\nmode = "thread"\n', "plugins/farm.py": text})
    outcome = made.run("tasks.toml")
    assert (outcome.exit, "E310" in outcome.err) == (3, True), outcome
    assert expected in outcome.err
    assert "in hook runner_tasks of plugin `farm`" in outcome.err
    made.write({"tasks.toml": '[tasks.x]\ncall = "os:getcwd"\nmode = "thread"\n'})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "plugin `farm`" in outcome.err


# -- runner_engines ----------------------------------------------------------------------------

FLEET = """
    from runner import hookimpl
    from runner.engines.threads import ThreadEngine

    class Garage(ThreadEngine):
        def __init__(self, site):
            super().__init__(site.reactor, site.name_thread)
            print("garage for", sorted(reference.qualname for reference in site.references))

    @hookimpl
    def runner_engines():
        return {"garage": Garage}
"""


def test_processes_live_where_the_engine_of_a_plugin_says(project):
    files = {
        "tasks.toml": QUEUE.format(mode="process") + '\n    [run]\n    engine = "garage"\n',
        "plugins/work.py": WORK,
        "plugins/fleet.py": FLEET,
        "plugins/around.py": AROUND,
    }
    outcome = project(files).run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "40 read = 40 done" in outcome.err
    assert "garage for ['make', 'runner_worker', 'take']" in outcome.out
    assert "in take take-1 garage True True" in outcome.out


def test_an_unknown_engine_is_an_error_that_lists_all(project):
    made = project(
        {"tasks.toml": '[run]\nengine = "garege"\n[tasks.x]\ncall = "os:getcwd"\n', "plugins/fleet.py": FLEET}
    )
    outcome = made.run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert "tasks.toml:2:1: E313 unknown engine `garege`" in outcome.err
    assert "did you mean `garage`? engines: `local`, `agents`, `ray`, `garage` (of plugin `fleet` (" in outcome.err


@pytest.mark.parametrize("body", ['raise RuntimeError("no garage")', 'return {"garage": 3}', 'return {"local": dict}'])
def test_an_engine_that_is_wrong_is_named(project, body):
    text = f"from runner import hookimpl\n@hookimpl\ndef runner_engines():\n    {body}\n"
    made = project(
        {"tasks.toml": '[run]\nengine = "garage"\n[tasks.x]\ncall = "os:getcwd"\n', "plugins/fleet.py": text}
    )
    outcome = made.run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert "plugin `fleet`" in outcome.err
    made.write({"tasks.toml": '[tasks.x]\ncall = "os:getcwd"\n'})
    assert made.run("tasks.toml").exit == 0


# -- runner_check -----------------------------------------------------------------------------

RULES = """
    from runner import hookimpl

    @hookimpl
    def runner_check(config):
        for task in config.tasks.values():
            if task.timeout is None:
                yield config.problem("a task must have a timeout", "tasks", task.name, hint='say timeout = "1m"')
        if not config.title:
            yield config.problem("a file should have a title", warning=True)
"""


def test_what_a_plugin_finds_is_shown_like_our_own_with_its_place(project):
    made = project({"tasks.toml": '[tasks.x]\ncall = "os:getcwd"\n', "plugins/rules.py": RULES})
    outcome = made.run("tasks.toml", verb="check")
    assert outcome.exit == 3, outcome
    assert "tasks.toml:1:8: E314 a task must have a timeout (says plugin `rules`)\n" in outcome.out
    assert '1 | [tasks.x]\n  |        ^ say timeout = "1m"' in outcome.out
    assert "W407 a file should have a title (says plugin `rules`)" in outcome.out
    assert made.run("tasks.toml").exit == 3
    assert made.run("tasks.toml", "--no-plugin", "rules").exit == 0
    assert made.run("tasks.toml", "--static", verb="check").exit == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [('raise RuntimeError("no rules")', "RuntimeError: no rules"), ("return ['bad']", "TypeError")],
)
def test_a_check_that_raises_is_said_of_its_plugin_and_stops_nothing(project, body, expected):
    text = f"from runner import hookimpl\n@hookimpl\ndef runner_check(config):\n    {body}\n"
    made = project({"tasks.toml": '[tasks.x]\ncall = "os:getcwd"\n', "plugins/rules.py": text})
    checked = made.run("tasks.toml", verb="check")
    assert (checked.exit, "W406" in checked.out) == (0, True), checked
    assert expected in checked.out
    assert "in hook runner_check of plugin `rules`" in checked.out
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert expected in outcome.err


# -- local plugins ----------------------------------------------------------------------------


def test_a_local_plugin_of_hooks_that_cannot_be_imported_is_told_of(project):
    text = "from runner import hookimpl\nimport no_such_dependency\n"
    outcome = project({"tasks.toml": '[tasks.x]\ncall = "os:getcwd"\n', "plugins/watch.py": text}).run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "plugin `watch`" in outcome.err
    assert "No module named 'no_such_dependency'" in outcome.err


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
@MODES
def test_a_local_plugin_shadows_nothing_and_its_tracebacks_show_the_real_file(project, mode, method):
    text = """
        from runner import task
        import json

        @task(name="write")
        def _write():
            print(json.dumps([1]))
            raise ValueError("here")
    """
    made = project({"tasks.toml": f'[tasks.write]\nmode = "{mode}"\n', "plugins/json.py": text})
    outcome = made.run("tasks.toml", env={"RUNNER_START_METHOD": method})
    assert outcome.exit == 1, outcome
    assert "[1]" in outcome.out
    assert f'File "{made.path}/plugins/json.py", line 7, in _write' in outcome.err


def test_a_package_and_a_named_folder_are_plugins_too(project):
    files = {
        "tasks.toml": 'plugins = ["more", "one.py"]\n[tasks.a]\ncall = "pack.a"\n[tasks.b]\ncall = "one.b"\n',
        "more/pack/__init__.py": "from .inner import word\nfrom runner import task\n@task\ndef a(): print(word)\n",
        "more/pack/inner.py": 'word = "from inside"\n',
        "one.py": "from runner import task\n@task(mode='thread')\ndef b(): print('one')\n",
    }
    outcome = project(files).run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "from inside" in outcome.out
