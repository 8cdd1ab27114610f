"""`ps`, `top` and `stop` on every kind of run. What is true, the system's process table and the run itself say."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import Outcome
from topology_runs import wait_for

from runner.cli import app
from runner.store import running_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORK = """
    import itertools
    import time
    from pathlib import Path
    from runner import task

    @task
    def make():
        for number in itertools.count():
            yield {"customer": "stuck" if number % 2 else str(number), "number": number}

    @task
    def take(item):
        time.sleep(0.02)

    @task
    def hang(item):
        while item["customer"] == "stuck" and not Path("go").exists():
            time.sleep(0.01)
        time.sleep(0.02)
"""
#: The endless run in each form: lines of [run], of the queue, and of the task that takes.
FORMS = {
    "threads": ("", "", 'mode = "thread"\nworkers = 2'),
    "processes": ("", "", 'mode = "process"\nworkers = 2'),
    "durable": ("durable = true", "", 'mode = "process"'),
    "ranges": ("", "", 'mode = "thread"\nworkers = "1..3"'),
    "lanes": ("", 'lane = "customer"', 'call = "hang"\nmode = "thread"\nworkers = 2'),
    "drops": ("", 'full = "drop-new"', 'mode = "process"'),
    "agents": ('engine = "agents"\n[agents]\nlisten = "127.0.0.1:0"', "", 'mode = "process"\nworkers = 4'),
}
BALANCE = re.compile(r"[\d,]+ read = .*")


def tasks_file(form: str) -> str:
    run, queue, take = FORMS[form]
    return f"""
title = "Endless"
[run]
{run}
[queues.q]
size = 20
{queue}
[tasks.make]
outputs = "q"
mode = "thread"
[tasks.take]
inputs = "q"
{take}
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Execute a verb in this process."""

    def execute(folder: Path, *args: str) -> Outcome:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["runner", *args])
        capfd.readouterr()
        code = app.main()
        return Outcome(["runner", *args], code, *capfd.readouterr())

    return execute


def is_executing(state: Path, workers: int = 1) -> bool:
    found = running_runs.find_running(state)
    return bool(found) and found[-1].status.rpartition('"event":"Progress"')[2].count('"state":"executing"') >= workers


def check_against_the_system(found: dict[str, Any], agents: list[int]) -> None:
    """Compare what `ps --json` says with the table of processes."""
    supervisor = psutil.Process(found["pid"])
    ours = {each.pid for each in supervisor.children(recursive=True)}
    theirs = {each.pid for agent in agents for each in psutil.Process(agent).children(recursive=True)}
    for worker in found["workers"]:
        if worker["mode"] == "thread":
            assert (worker["pid"], worker["alive"]) == (found["pid"], None)
        elif worker["node"]:
            assert worker["pid"] in {0, *theirs}, "0: it has not started yet"
            assert worker["alive"] is None, "a process of another machine was looked up here"
        elif worker["state"] not in {"ended", "starting"}:
            assert worker["alive"] is psutil.pid_exists(worker["pid"]) is True
            assert worker["pid"] in ours
            assert worker["memory"] > 1 << 20


@pytest.mark.parametrize("form", [pytest.param(each, marks=pytest.mark.slow) for each in FORMS])
def test_each_form_of_run_is_seen_and_stopped(project: Any, command: Callable[..., Outcome], form: str) -> None:
    made = project({"tasks.toml": tasks_file(form), "plugins/work.py": WORK})
    state = made.path / ".runner"
    running = made.start("--progress", "none")
    agents = []
    if form == "agents":
        join = ".runner/runs/last/join"
        agents = [made.start("--join", join, f"--name=n{n}", "--places=2", verb="agent") for n in (1, 2)]
    wait_for(lambda: is_executing(state), 60)
    nodes = {"n1", "n2"} if form == "agents" else {None}
    seen = lambda: command(made.path, "ps", "--json").json[0]["workers"]  # noqa: E731  one line
    wait_for(lambda: nodes <= {each["node"] for each in seen() if each["pid"]}, 60)
    [found] = command(made.path, "ps", "--json").json
    assert (found["pid"], found["here"], found["suspended"]) == (running.process.pid, True, False)
    assert {worker["task"] for worker in found["workers"]} == {"make", "take"}
    assert (found["ledger"] is not None) is (form == "durable")
    check_against_the_system(found, [agent.process.pid for agent in agents])
    if form == "agents":
        shown = command(made.path, "ps").out
        assert re.search(r"\b\d+@n1\b", shown)
        assert re.search(r"\b\d+@n2\b", shown)
    if form in {"lanes", "drops"}:  # it goes on until there is something of it to see
        key = "fullest" if form == "lanes" else "dropped"
        wait_for(lambda: command(made.path, "top", "--once", "--json").json["queues"]["q"].get(key), 60)
    wait_for(lambda: command(made.path, "top", "--once", "--json").json["queues"]["q"]["oldest"] is not None, 60)
    once = command(made.path, "top", "--once", "--json").json
    assert once["tasks"].keys() == {"make", "take"}
    assert once["queues"]["q"]["length"] <= 20
    assert command(made.path, "top", "--once").out.startswith("Endless  ")
    (made.path / "go").touch()  # the stuck lane drains
    stopped = command(made.path, "stop")
    outcome = running.finish()
    assert {agent.finish().exit for agent in agents} <= {0}
    assert (stopped.exit, outcome.exit) == (143, 143), (stopped, outcome)
    [said], [balance] = BALANCE.findall(stopped.err), BALANCE.findall(outcome.err)
    assert said.split("  ")[0] == balance.split("  ")[0]
    assert ("go on with it: runner resume" in stopped.err) is (form == "durable")
    assert command(made.path, "ps", "--json").json == []


@pytest.mark.slow
def test_the_second_life_of_a_durable_run_after_a_kill(project: Any, command: Callable[..., Outcome]) -> None:
    made = project({"tasks.toml": tasks_file("durable"), "plugins/work.py": WORK})
    state = made.path / ".runner"
    first = made.start("--progress", "none")
    wait_for(lambda: is_executing(state), 60)
    watching = made.start("--json", verb="top")
    watching.process.stdout.readline()  # type: ignore[union-attr]
    [name] = [each.run for each in running_runs.find_running(state)]
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert command(made.path, "ps", "--json").json == []
    first.finish()
    followed = watching.finish()
    assert followed.exit == 0
    assert f"go on with it: runner resume {name}" in followed.err
    nothing = command(made.path, "stop", name)
    assert nothing.exit == 2
    second = made.start("--progress", "none", verb="resume")
    wait_for(lambda: is_executing(state), 60)
    [found] = command(made.path, "ps", "--json").json
    assert (found["run"], found["pid"]) == (name, second.process.pid)
    assert found["ledger"] > 0
    assert "durable: " in command(made.path, "ps").out
    assert command(made.path, "top", "--once", "--json").json["life"] == 2
    assert "durable, " in command(made.path, "top", "--once").out.splitlines()[0]
    assert command(made.path, "stop", "--now").exit == 143
    assert second.finish().exit == 143


@pytest.mark.slow
def test_a_suspended_run_is_shown_as_such_and_ended_all_the_same(project: Any, command: Callable[..., Outcome]) -> None:
    made = project({"tasks.toml": tasks_file("processes"), "plugins/work.py": WORK})
    state = made.path / ".runner"
    running = made.start("--progress", "none")
    wait_for(lambda: is_executing(state), 60)
    running.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: psutil.Process(running.process.pid).status() == psutil.STATUS_STOPPED, 30)
    assert command(made.path, "ps", "--json").json[0]["suspended"]
    assert ", suspended)" in command(made.path, "ps").out
    assert "suspended (Ctrl-Z)" in command(made.path, "top", "--once").out
    stopped = command(made.path, "stop")
    assert "was suspended (Ctrl-Z): it goes on, to end" in stopped.err
    assert stopped.exit == running.finish().exit == 143


@pytest.mark.slow
def test_a_run_whose_folder_is_removed_goes_on_and_ends_well(project: Any, command: Callable[..., Outcome]) -> None:
    made = project({"tasks.toml": tasks_file("threads"), "plugins/work.py": WORK})
    state = made.path / ".runner"
    running = made.start("--progress", "none")
    wait_for(lambda: is_executing(state), 60)
    shutil.rmtree(state)
    seen = command(made.path, "ps", "--json")
    assert seen.exit == 0, seen
    wait_for(lambda: command(made.path, "ps", "--json").json, 30)  # it has written its status again
    [found] = command(made.path, "ps", "--json").json
    assert found["pid"] == running.process.pid
    assert command(made.path, "stop").exit == 143
    outcome = running.finish()
    assert outcome.exit == 143, outcome
    assert "Traceback" not in outcome.err


@pytest.mark.slow
def test_a_run_without_a_record_is_not_listed(project: Any, command: Callable[..., Outcome]) -> None:
    made = project({"tasks.toml": tasks_file("threads"), "plugins/work.py": WORK})
    running = made.start("--progress", "none", "--no-record", "--json")
    wait_for(lambda: len(psutil.Process(running.process.pid).threads()) > 3, 60)
    assert command(made.path, "ps", "--json").json == []
    assert command(made.path, "stop").exit == 2
    until = time.monotonic() + 30
    while running.process.poll() is None and time.monotonic() < until:
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    running.finish()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd")
def test_each_and_watched_runs_are_runs_like_others(project: Any, command: Callable[..., Outcome]) -> None:
    made = project({"tasks.toml": tasks_file("threads"), "plugins/work.py": WORK})
    state = made.path / ".runner"
    each = made.start("-j", "2", "sleep", ":::", "60", "61", verb="each", stdin=None)
    wait_for(lambda: is_executing(state, 2), 60)
    [found] = command(made.path, "ps", "--json").json
    assert found["pid"] == each.process.pid
    assert sum(worker["state"] == "executing" for worker in found["workers"]) == 2
    assert command(made.path, "stop", "--now").exit == 143
    assert each.finish().exit == 143
    watched = made.start("--watch", "--progress", "none")
    wait_for(lambda: is_executing(state), 60)
    [found] = command(made.path, "ps", "--json").json
    first = found["run"]
    assert psutil.Process(found["pid"]).is_running()
    assert command(made.path, "stop").exit == 143
    assert first not in {each.run for each in running_runs.find_running(state)}
    watched.process.send_signal(signal.SIGINT)
    watched.finish()
