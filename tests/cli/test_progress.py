"""`run --progress` on a terminal and without one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading

import pyte
import pytest
from topology_runs import wait_for

FILE = """
    title = "Lines"

    [queues]
    lines = { size = 8 }

    [tasks.make]
    mode    = "thread"
    outputs = "lines"

    [tasks.show]
    mode    = "thread"
    inputs  = "lines"
"""
WORK = """
    import time
    from pathlib import Path
    from runner import Context, task

    @task
    def make(context: Context):
        number = 0
        while not Path("end").exists():
            context.progress(number, 1_000_000)
            yield number
            number += 1
            time.sleep(0.01)

    @task
    def show(item):
        with Path("shown").open("a") as file:
            file.write("x")
        if item % 10 == 0:
            print(f"line {item} " + "x" * 30)
"""


class Terminal:
    """A run on a pseudo terminal, and what its screen shows."""

    def __init__(self, path, *args, columns=80, lines=24, env=None, reads=True):
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.stream = pyte.ByteStream(self.screen)
        self.lock = threading.Lock()
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        command = [sys.executable, "-m", "runner", "run", "tasks.toml", *args]
        inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        environment = {**inherited, "TERM": "xterm-256color", **(env or {})}
        self.process = subprocess.Popen(
            command, cwd=path, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.bytes = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self.reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                with self.lock:
                    self.bytes += data
                    self.stream.feed(data)

    def resize(self, columns, lines):
        with self.lock:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            self.screen.resize(lines, columns)

    def display(self):
        with self.lock:
            return [line.rstrip() for line in self.screen.display]

    def scrolled(self):
        """All lines, those that have left the screen included."""
        with self.lock:
            width = self.screen.columns
            above = ["".join(line[at].data for at in range(width)).rstrip() for line in self.screen.history.top]
            return above + [line.rstrip() for line in self.screen.display]

    def shows(self, text):
        return any(text in line for line in self.display())

    def end(self):
        self.process.wait(30)
        self.reader.join(10)
        os.close(self.master)
        return self.process.returncode


@pytest.fixture
def terminal(project):
    made = project({"tasks.toml": FILE, "plugins/work.py": WORK})
    running = []

    def start(*args, **options):
        running.append(Terminal(made.path, *args, **options))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
    (made.path / "end").touch()


def test_output_scrolls_whole_above_the_panel(terminal, tmp_path):
    run = terminal("-v")  # the table of the summary also after less than a second
    wait_for(lambda: run.shows("line 90 "))
    wait_for(lambda: run.shows("make     running"))
    shown = [line for line in run.display() if line]
    heading = next(at for at, line in enumerate(shown) if line.startswith("Lines  ") and "of 1.00M" in line)
    assert [line.split()[0] for line in shown[heading + 1 :]] == ["task", "make", "lines", "show"]
    (tmp_path / "end").touch()
    assert run.end() == 0
    lines = run.scrolled()
    printed = [line for line in lines if line.startswith("show | line ")]
    assert printed == [f"show | line {number * 10} " + "x" * 30 for number in range(len(printed))]
    assert not any("running" in line or "of 1.00M" in line for line in lines)
    assert "\n".join(lines).count("task  ") == 1  # the table of the summary
    assert any(line.startswith("Lines  ended in ") for line in [line for line in lines if line][-6:])
    assert b"\x1b[?25l" not in run.bytes, "the cursor is never hidden"


@pytest.mark.slow
def test_a_terminal_that_changes_its_size(terminal, tmp_path):
    run = terminal()
    wait_for(lambda: run.shows("make     running"))
    run.resize(50, 12)
    count = len(run.scrolled())
    wait_for(lambda: len(run.scrolled()) > count + 3)
    wait_for(lambda: run.shows("make     running"))
    (tmp_path / "end").touch()
    assert run.end() == 0


def test_ctrl_c_leaves_a_usable_terminal(terminal):
    run = terminal()
    wait_for(lambda: run.shows("make     running"))
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() == 130
    shown = [line for line in run.display() if line]
    assert any(line.startswith("Lines  stopped after ") for line in shown)
    assert not any("running" in line for line in shown)


@pytest.mark.slow
def test_a_terminal_that_takes_nothing_does_not_hold_up_the_run(terminal, tmp_path):
    """As after Ctrl-S: what is shown waits, what is done does not."""
    run = terminal(reads=False)
    shown = tmp_path / "shown"
    wait_for(lambda: shown.exists() and shown.stat().st_size > 300)
    (tmp_path / "end").touch()
    run.reader.start()
    assert run.end() == 0


@pytest.mark.parametrize(
    "how",
    [
        {"args": ["--progress", "none"]},
        *(pytest.param(how, marks=pytest.mark.slow) for how in ({"args": ["-q"]}, {"env": {"TERM": "dumb"}})),
    ],
    ids=str,
)
def test_where_it_is_not_wanted_nothing_is_drawn(terminal, tmp_path, how):
    run = terminal(*how.get("args", ()), env=how.get("env"))
    wait_for(lambda: run.shows("line 50 "))
    (tmp_path / "end").touch()
    assert run.end() == 0
    assert b"\x1b[J" not in run.bytes


def test_no_colour(terminal, tmp_path):
    run = terminal(env={"NO_COLOR": "1"})
    wait_for(lambda: run.shows("make     running"))
    (tmp_path / "end").touch()
    assert run.end() == 0
    assert re.search(rb"\x1b\[[0-9;]*m", run.bytes) is None


def test_json_for_programs(project):
    made = project({"tasks.toml": FILE, "plugins/work.py": WORK})
    running = made.start("tasks.toml", "--progress", "json")
    first = json.loads(running.process.stderr.readline())
    (made.path / "end").touch()
    assert running.finish().exit == 0
    assert set(first) == {"progress", "title", "seconds", "done", "total", "eta", "tasks", "queues"}
    assert set(first["tasks"]) == {"make", "show"}


def test_a_choice_that_there_is_not(project):
    outcome = project({"tasks.toml": FILE, "plugins/work.py": WORK}).run("tasks.toml", "--progress", "blinking")
    assert (outcome.exit, outcome.err) == (2, "--progress knows auto, live, plain, json, none, not 'blinking'\n")
