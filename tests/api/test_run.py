"""`runner.run` and `runner.load`: the same as the commands, from a script, a thread, a REPL or a notebook."""

import ast
import contextlib
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from helpers import ROOT

import runner
from runner import ConfigError, RunnerError

FILE = """
    title = "Counting"

    [params]
    upto = { default = 3, max = 10 }

    [tasks.count]
    with = { upto = "${upto}" }
    mode = "thread"

    [tasks.sum_up]
    with = { upto = "${upto}" }
"""
PLUGIN = """
    from runner import Reject, task


    @task
    def count(*, upto: int):
        for number in range(upto):
            print("counted", number)
        return upto


    @task
    def sum_up(*, upto: int):
        print("summing up")
        return {"sum": sum(range(upto)), "of": {1}} if upto > 5 else sum(range(upto))
"""


@pytest.fixture
def counting(project):
    return project({"tasks.toml": FILE, "plugins/counting.py": PLUGIN}).path


def test_the_result(counting, capfd):
    result = runner.run(counting / "tasks.toml")
    assert (result.title, result.exit_code, result.ok, result.dead) == ("Counting", 0, True, 0)
    assert result.tasks["count"].result == 3
    assert result.tasks["sum_up"].results == {"sum_up": 3}
    assert result.seconds > 0
    assert list(result.letters()) == []
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == [*(f"count | counted {n}" for n in range(3)), "sum_up | summing up"]
    assert err.splitlines()[-1].startswith("Counting  ended in ")


def test_params_and_keys_from_python(counting, capfd):
    result = runner.run(
        counting / "tasks.toml", params={"upto": 6}, set={"title": "3", "tasks.count.workers": ["x", "y"]}
    )
    assert result.title == "3"
    assert result.tasks["count"].results == {"x": 6, "y": 6}
    assert result.tasks["sum_up"].result == "{'sum': 15, 'of': {1}}"


def test_only_some_tasks_and_quietly(counting, capfd):
    assert set(runner.run(counting / "tasks.toml", tasks=["count"], quiet=True).tasks) == {"count"}
    assert set(runner.run(str(counting / "tasks.toml"), skip=["count"], quiet=True).tasks) == {"sum_up"}
    assert capfd.readouterr().err == ""


def test_a_config_can_be_changed_and_run(counting, capfd):
    config = runner.load(counting / "tasks.toml", params={"upto": 1})
    assert config.params == {"upto": 1}
    assert runner.run(replace(config, title="Other"), quiet=True).title == "Other"
    with pytest.raises(RunnerError, match="give them to `load`"):
        runner.run(config, params={"upto": 2})


def test_a_wrong_file(counting, tmp_path):
    with pytest.raises(ConfigError, match="E101 the file does not exist"):
        runner.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="must be at most 10, not 11") as caught:
        runner.run(counting / "tasks.toml", params={"upto": 11})
    assert [problem.severity for problem in caught.value.problems] == ["error"]
    (counting / "tasks.toml").write_text('[tasks.count]\nmode = "thread"\ninputs = ["x"]\n')
    with pytest.raises(ConfigError, match="E203"):
        runner.load(counting / "tasks.toml")


def test_loading_executes_nothing(counting):
    (counting / "plugins" / "counting.py").write_text("raise SystemExit")
    assert set(runner.load(counting / "tasks.toml").tasks) == {"count", "sum_up"}


def test_dead_letters(project, capfd):
    path = project({"tasks.toml": DEAD, "plugins/dead.py": DEAD_PLUGIN}).path / "tasks.toml"
    results = [runner.run(path), runner.run(path)]
    assert [result.exit_code for result in results] == [4, 4]
    for result in results:  # two runs within a second have stores of their own
        assert [letter["error"] for letter in result.letters()] == ["Reject: one"]
    assert results[0].run != results[1].run


DEAD = """
    [queues]
    q = {}
    [tasks.give]
    mode = "thread"
    outputs = ["q"]
    [tasks.take]
    mode = "thread"
    inputs = ["q"]
"""
DEAD_PLUGIN = """
    from runner import Reject, task


    @task
    def give():
        yield from range(3)


    @task
    def take(item):
        if item == 1:
            raise Reject("one")
"""


class Notebook(io.TextIOBase):
    """As a notebook's streams: text is written to it, and there is no descriptor."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def fileno(self):
        raise io.UnsupportedOperation("fileno")


def test_a_stream_without_a_descriptor(counting, capfd):
    out, err = Notebook(), Notebook()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        runner.run(counting / "tasks.toml")
        assert sys.stdout is out
    assert sorted(out.text.splitlines()) == [*(f"count | counted {n}" for n in range(3)), "sum_up | summing up"]
    assert "Counting  ended in" in err.text
    assert capfd.readouterr() == ("", "")


def test_a_closed_stream_does_not_stop_the_run(counting):
    out = io.StringIO()
    out.close()
    with contextlib.redirect_stdout(out):
        assert runner.run(counting / "tasks.toml", quiet=True).ok


def test_in_a_thread_and_not_beside_another_run(counting, capfd):
    results, errors = [], []

    def beside(event):
        try:
            runner.run(counting / "tasks.toml")
        except RunnerError as error:
            errors.append(str(error))

    thread = threading.Thread(
        target=lambda: results.append(runner.run(counting / "tasks.toml", tasks="count", on_event=beside))
    )
    thread.start()
    thread.join()
    assert results[0].tasks["count"].result == 3
    assert set(errors) == {"a run is under way in this process, and a process has one at a time; start another process"}
    assert "RUNNER_PID" not in os.environ


WAITING = """
    import os, signal, threading
    from runner import task


    @task
    def wait():
        threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_the_run_and_goes_on_to_the_program(project, number, capfd):
    files = {"tasks.toml": '[run]\ngrace = "100ms"\n[tasks.wait]\n', "plugins/waiting.py": WAITING}
    path = project(files).path / "tasks.toml"

    def stop(event):
        if isinstance(event, runner.events.WorkerReady):
            os.kill(os.getpid(), number)

    if number == signal.SIGINT:
        with pytest.raises(runner.Interrupted) as caught:
            runner.run(path, on_event=stop)
        assert isinstance(caught.value, KeyboardInterrupt)
        assert caught.value.result.exit_code == 130
    else:
        got = []
        before = signal.signal(signal.SIGTERM, lambda *_: got.append("SIGTERM"))
        try:
            assert runner.run(path, on_event=stop).exit_code == 143
        finally:
            signal.signal(signal.SIGTERM, before)
        assert got == ["SIGTERM"]


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_a_script_without_a_guard(counting, method):
    script = counting / "script.py"
    script.write_text(
        "import runner\nprint('top')\n"
        "for time in range(2):\n    result = runner.run('tasks.toml', quiet=True)\n    print(result.tasks['sum_up'].result)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=counting, env={**os.environ, "RUNNER_START_METHOD": method}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if " | " not in line] == ["top", "3", "3"]
    assert done.stderr == ""


@pytest.mark.slow
def test_a_session_at_the_prompt(counting):
    typed = "import runner\nresult = runner.run('tasks.toml', quiet=True)\nprint(result.tasks['sum_up'].result)\n"
    done = subprocess.run(
        [sys.executable, "-i", "-q"], cwd=counting, input=typed, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "3"


# -- what there is ----------------------------------------------------------------------------


def test_importing_runner_is_light():
    code = "import sys; before = set(sys.modules); import runner; print(sorted(set(sys.modules) - before))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    allowed = {"runner", "__future__", "typing"}
    names = [name for name in ast.literal_eval(found) if name.partition(".")[0] == "runner"]
    assert names == ["runner"]
    heavy = {
        "typer",
        "rich",
        "pydantic",
        "tomli",
        "pluggy",
        "multiprocessing",
        "asyncio",
        "importlib.metadata",
        "inspect",
    }
    assert not heavy & set(ast.literal_eval(found)), allowed


def test_every_public_name_is_documented_and_nothing_else():
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)[^`]*` \|", page, re.MULTILINE)
    assert sorted(documented) == runner.__all__
    assert runner.__all__ == sorted(set(runner.__all__))
    for name in runner.__all__:
        assert getattr(runner, name) is not None


COLLECTING = """
    import gc

    from runner import task


    @task
    def collects():
        return gc.isenabled()
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_the_collector_is_as_it_was(project, frozen):
    made = project({"tasks.toml": "[tasks.collects]\n", "plugins/collecting.py": COLLECTING})
    if frozen:
        gc.freeze()
    try:
        settled = gc.get_freeze_count()
        result = runner.run(made.path / "tasks.toml")
        assert gc.isenabled()
        assert min(1, settled) <= gc.get_freeze_count() <= settled, "what a program has frozen, and nothing else"
    finally:
        gc.unfreeze()
    assert result.tasks["collects"].results == {"collects": True}


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_functions_run_with_the_collector_on(project, method):
    tasks = "[tasks.thread]\ncall = 'collects'\nmode = 'thread'\n[tasks.process]\ncall = 'collects'\nmode = 'process'\n"
    made = project({"tasks.toml": tasks, "plugins/collecting.py": COLLECTING})
    outcome = made.run("--json", env={"RUNNER_START_METHOD": method})
    assert outcome.exit == 0, outcome
    results = {each["name"]: each["results"] for each in json.loads(outcome.out)["tasks"]}
    assert results == {name: {name: "true"} for name in ("thread", "process")}


LEFT_OPEN = """
    from runner import task

    kept = open("kept.txt", "w")


    @task
    def keep():
        kept.write("kept")
"""


def test_what_a_plugin_has_left_open_is_written_when_the_command_ends(project):
    made = project({"tasks.toml": "[tasks.keep]\nmode = 'thread'\n", "plugins/left_open.py": LEFT_OPEN})
    assert made.run().exit == 0
    assert (made.path / "kept.txt").read_text() == "kept"
