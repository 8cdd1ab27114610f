"""The command as a whole, when things go wrong around it: signals, limits, full disks, the death of runner itself."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import describe, kill_all, marked, still_there

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = """
import ctypes, os, subprocess, sys, threading, time
from pathlib import Path
from runner import Context, Retry, task

@task
def numbers(count: int = 10):
    yield from range(count)

@task
def fail(item: int):
    print("about to fail with", item)
    if item % 2:
        raise ValueError(f"odd: {item}")

@task
def wait(item: int, *, how: str = "idle", file: str = "started"):
    child = subprocess.Popen(["sleep", "600"]) if how == "child" else None
    Path(file).write_text(str(child.pid if child else os.getpid()))
    while how == "spin":
        pass
    if how == "in C":
        while True:
            ctypes.PyDLL(None).sleep(600)
    threading.Event().wait(600)

@task
def pause(item: int, *, seconds: float = 0.02):
    time.sleep(seconds)
    return item

@task
def rest(item):
    pass
"""

LINE = """
title = "Line"
[queues]
a = {{}}
[tasks.numbers]
with = {{ count = {count} }}
outputs = "a"
mode = "thread"
[tasks.{name}]
inputs = "a"
{options}
"""


@pytest.fixture
def line(project: Any) -> Any:
    """`line(task's name, "more keys", count)`: a project in which numbers go through one task."""

    def make(name: str, options: str = "", count: int = 10, run: str = "") -> Any:
        text = LINE.format(name=name, options=options, count=count) + run
        return project({"tasks.toml": text, "plugins/work.py": PLUGIN})

    return make


def wait_for(path: Path, process: Any, limit: float = 20) -> str:
    """The text of a file that a worker writes; polling, because a file announces nothing."""
    end = time.monotonic() + limit
    pause = threading.Event()
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if text := path.read_text():
                return text
        assert process.poll() is None, process.communicate()
        pause.wait(0.01)
    raise AssertionError(f"{path} never came")


# -- dead letters on disk ----------------------------------------------------------------------------


def test_dead_letters_are_kept_listed_shown_and_exported_without_running_anything(line: Any) -> None:
    made = line("fail", "attempts = 2\nbackoff = { first = '1ms' }")
    outcome = made.run()
    assert outcome.exit == 4, outcome
    assert outcome.err.splitlines()[-1].strip() == "5 dead: runner dead list last"
    state = made.path / ".runner"
    assert state.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.glob("runs/*")} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in state.glob("runs/*/dead.jsonl")} == {0o600}

    (made.path / "plugins/work.py").write_text("open('executed', 'w')")
    listed = made.run("list", verb="dead")
    assert listed.exit == 0, listed
    assert "ValueError: odd: 1" in listed.out
    assert "5  ValueError in task `fail`" in listed.out
    first = next(text.split()[0] for text in listed.out.splitlines() if "odd: 1 " in text)
    shown = made.run("show", first, verb="dead")
    assert "value     1" in shown.out, shown
    assert "attempts  2" in shown.out
    assert "raise ValueError" in shown.out
    assert "about to fail with 1" in shown.out
    exported = made.run("export", verb="dead")
    letters = [json.loads(text) for text in exported.out.splitlines()]
    assert sorted(letter["error"] for letter in letters) == [f"ValueError: odd: {number}" for number in (1, 3, 5, 7, 9)]
    assert not (made.path / "executed").exists(), "reading must not execute"


def test_what_is_not_there_is_said(line: Any) -> None:
    made = line("fail")
    outcome = made.run("list", verb="dead")
    assert outcome.exit == 2
    assert "no run in .runner has dead letters" in outcome.err
    made.run()
    outcome = made.run("show", "last", "77.7", verb="dead")
    assert outcome.exit == 2
    assert "has no dead letter for item 77.7" in outcome.err


def test_dead_letters_that_cannot_be_written_are_still_counted(line: Any) -> None:
    made = line("fail")
    (made.path / ".runner").write_text("in the way")
    outcome = made.run()
    assert outcome.exit == 4, outcome
    assert "dead letters cannot be written to" in outcome.err
    assert "5 dead" in outcome.err


def test_dead_ok(line: Any) -> None:
    assert line("fail").run("--dead-ok").exit == 0


# -- halt, deadline ----------------------------------------------------------------------------------


def test_halt_stops_the_run_with_5(line: Any) -> None:
    outcome = line("fail", count=5000).run("--halt", "first")
    assert outcome.exit == 5, outcome
    assert "halted: 1 items are dead" in outcome.err or "halted: " in outcome.err
    assert "left in `a`" in outcome.err


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_the_deadline_stops_the_run_with_124(line: Any, mode: str) -> None:
    outcome = line("pause", f"mode = '{mode}'", count=1000, run="[run]\ngrace = '100ms'\n").run("--deadline", "700ms")
    assert outcome.exit == 124, outcome
    assert "the deadline of 700ms has passed" in outcome.err
    assert "left in `a`" in outcome.err


# -- SIGQUIT, SIGTSTP, SIGCONT ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "how"), [pytest.param("process", "idle", marks=pytest.mark.slow), ("process", "in C"), ("thread", "idle")]
)
def test_sigquit_prints_every_stack_and_goes_on(line: Any, mode: str, how: str) -> None:
    made = line("wait", f"mode = '{mode}'\nwith = {{ how = '{how}' }}", count=1)
    running = made.start()
    wait_for(made.path / "started", running.process)
    running.process.send_signal(signal.SIGQUIT)
    seen = []
    for text in running.process.stderr:
        seen.append(text)
        if "in wait" in text:
            break
    assert running.process.poll() is None, "it goes on"
    running.process.send_signal(signal.SIGTERM)
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish()
    text = "".join(seen) + outcome.err
    assert "worker `wait` of task `wait`" in text
    assert "work.py" in text
    assert "runner/worker" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "seconds"), [((), 2.5), pytest.param(("--deadline", "9s"), 10, marks=pytest.mark.slow)]
)
def test_a_stopped_run_loses_no_time(line: Any, args: tuple[str, ...], seconds: float) -> None:
    options = "timeout = '2s'\nwith = { seconds = 0.3 }"
    running = line("pause", options, count=4).start(*args)
    children = psutil.Process(running.process.pid)
    end = time.monotonic() + 10
    while not children.children(recursive=True) and time.monotonic() < end:
        threading.Event().wait(0.01)
    threading.Event().wait(0.3)
    running.process.send_signal(signal.SIGTSTP)
    threading.Event().wait(seconds)  # longer than the limit and the deadline: what is stopped cannot announce anything
    running.process.send_signal(signal.SIGCONT)
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert "4 done" in outcome.err


# -- the death of runner, and of the fork server ------------------------------------------------------


def alive(process: psutil.Process) -> bool:
    """Whether it still executes; a zombie only waits for a parent that has died, or is slow."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("method", "how"),
    [
        *(("forkserver", how) for how in ("spin", "in C", "child")),
        ("spawn", "idle"),
        pytest.param("forkserver", "idle", marks=pytest.mark.slow),
        *(pytest.param("spawn", how, marks=pytest.mark.slow) for how in ("spin", "in C", "child")),
    ],
)
def test_no_orphan_after_any_death_of_runner(line: Any, method: str, how: str) -> None:
    made = line("wait", f"with = {{ how = '{how}' }}", count=1)
    running = made.start(env={"RUNNER_START_METHOD": method})
    wait_for(made.path / "started", running.process)
    family = marked(running.token)
    assert len(family) >= 2
    running.process.kill()
    began = time.monotonic()
    others = [each for each in family if each.pid != running.process.pid]
    while any(alive(each) for each in others) and time.monotonic() < began + 20:
        threading.Event().wait(0.005)
    took = time.monotonic() - began
    left = still_there(others, limit=0)
    print(f"all {len(others)} gone after {took * 1000:.0f} ms")
    names = [describe(each) for each in left]
    kill_all(left)
    running.process.communicate()
    assert not names
    assert took < 20, "the bar is 0.2 s on a machine that does nothing else"


@pytest.mark.slow  # `edges/test_children.py` is process 1 as well
def test_as_process_1_of_a_container(line: Any) -> None:
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-pf", "--mount-proc", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to make a process namespace here")
    made = line("pause", "workers = 2")
    command = [unshare, "-pf", "--mount-proc", sys.executable, "-m", "runner", "run"]
    outcome = subprocess.run(command, cwd=made.path, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome
    assert "10 done" in outcome.stderr


@pytest.mark.slow
def test_the_fork_servers_death_costs_nothing(line: Any) -> None:
    made = line("pause", "workers = 2\nlifespan = { items = 20 }", count=200)
    running = made.start()
    end = time.monotonic() + 20
    killed = False
    while not killed and time.monotonic() < end:
        for process in marked(running.token):
            with contextlib.suppress(psutil.Error):
                ours = process.parent().pid == running.process.pid and process.children()
                if ours and "fork_server" in " ".join(process.cmdline()):
                    process.kill()
                    killed = True
                    break
        threading.Event().wait(0.02)  # to look takes as long as the run itself
    assert killed
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert "200 done" in outcome.err


# -- limits of the machine ----------------------------------------------------------------------------


def limited(soft: int, hard: int) -> Any:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_descriptors_are_raised(line: Any) -> None:
    outcome = line("pause", "workers = 16", count=64).run(preexec_fn=limited(80, 4096))
    assert outcome.exit == 0, outcome


def test_or_refused_with_numbers(line: Any) -> None:
    outcome = line("pause", "workers = 16").run(preexec_fn=limited(80, 80))
    assert outcome.exit == 3, outcome
    assert "16 process workers need about 240 open files, and this shell allows 80" in outcome.err


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_no_space_for_output(line: Any, full: str) -> None:
    with open("/dev/full", "w") as device:  # noqa: PTH123
        outcome = line("fail").run("--dead-ok", **{full: device})
    if full == "stdout":
        assert "standard output: No space left on device; 10 lines lost" in outcome.err, outcome
        assert outcome.exit == 1, "what was printed is lost, and a script must notice"
    else:
        assert outcome.exit in {0, 1}


def test_a_machine_that_starts_no_more_processes(line: Any) -> None:
    made = line("pause")
    (made.path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*args): raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "socket.send_fds = refuse\n"
    )
    outcome = made.start(env={"PYTHONPATH": str(made.path)}).finish()
    assert outcome.exit == 1, outcome
    assert "worker `pause` of task `pause` could not be started: Resource temporarily unavailable" in outcome.err
    assert "Traceback" not in outcome.err
    assert os.path.exists(made.path)  # noqa: PTH110
