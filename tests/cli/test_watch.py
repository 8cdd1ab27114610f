"""`--watch`: what is watched, and what a change does; the processes are real, the files are saved as editors do."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import ROOT

from runner import config, watching
from runner.errors import ResourceError, UsageError
from runner.watching import CommandWatcher, WatchedPath, find_watched_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT = 60.0
FILE = """
[params]
list = { type = "path", default = "list.txt" }

[queues]
lines = {}

[tasks.read]
call = "std.lines"
mode = "thread"
with = { path = "${list}" }
outputs = "lines"

[tasks.show]
mode = "thread"
inputs = "lines"
"""
PLUGIN = """
from runner import task

@task
def show(line):
    print("one", line)
"""


class Watched:
    """A command under `--watch`, whose output is read while it goes on."""

    def __init__(self, folder: Path, *arguments: str, **options: Any) -> None:
        self.folder, self._file = folder, folder.parent / f"{folder.name}.out"
        with self._file.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runner", *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                **{"stdout": out, "stderr": out, "stdin": subprocess.DEVNULL, **options},
            )  # fmt: skip

    @property
    def out(self) -> str:
        return self._file.read_text(encoding="utf-8")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until a text has been printed."""
        until = time.monotonic() + LIMIT
        while self.out.count(text) < times:
            assert time.monotonic() < until, f"no {text!r} in:\n{self.out}"
            assert self.process.poll() is None, f"it has ended, without {text!r}:\n{self.out}"
            time.sleep(0.02)

    def command_pid(self) -> int:
        """Return the process of the run."""
        [child] = psutil.Process(self.process.pid).children()
        return int(child.pid)

    def interrupt(self, number: int = signal.SIGINT) -> int:
        """Return the exit code that a signal gives."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Start a command under `--watch` in a folder with some files."""
    started: list[Watched] = []
    folder = tmp_path / "project"

    def start(*arguments: str, files: dict[str, str] | None = None, **options: Any) -> Watched:
        for name, text in {"tasks.toml": FILE, "plugins/w.py": PLUGIN, "list.txt": "a\n", **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        started.append(Watched(folder, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            each.process.kill()
        each.process.wait()


def save_by_rename(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)


def save_by_truncation(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.flush()
        file.write(text)


def save_by_deletion(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def save_with_backup(path: Path, text: str) -> None:
    path.rename(path.with_name(f"{path.name}~"))
    path.write_text(text)


def test_a_change_runs_it_again_until_ctrl_c(watch):
    run = watch("run", "--watch", "--log", "raw")
    run.wait_for("watching list.txt, plugins and tasks.toml; Ctrl-C ends")
    save_by_rename(run.folder / "tasks.toml", 'title = "New"\n' + FILE)
    run.wait_for("New  ended")
    assert "tasks.toml changed: running again" in run.out
    run.wait_for("Ctrl-C ends", 2)
    assert run.interrupt() == 130
    assert "Traceback" not in run.out


@pytest.mark.slow
def test_each_change_runs_it_again_however_it_is_saved_until_ctrl_c(watch):
    run = watch("run", "--watch", "--log", "raw")
    run.wait_for("watching list.txt, plugins and tasks.toml; Ctrl-C ends")
    assert "one a" in run.out
    save_by_deletion(run.folder / "list.txt", "b\n")
    run.wait_for("one b")
    assert "list.txt changed: running again" in run.out
    run.wait_for("Ctrl-C ends", 2)
    save_by_truncation(run.folder / "plugins" / "w.py", PLUGIN.replace("one", "two"))
    run.wait_for("two b")
    assert "plugins changed: running again" in run.out
    run.wait_for("Ctrl-C ends", 3)
    save_by_rename(run.folder / "tasks.toml", 'title = "New"\n' + FILE)
    run.wait_for("New  ended")
    run.wait_for("Ctrl-C ends", 4)
    save_with_backup(
        run.folder / "tasks.toml", 'title = "Newer"\n' + FILE
    )  # and again: the name is watched, not the file
    run.wait_for("Newer  ended")
    run.wait_for("Ctrl-C ends", 5)
    assert run.interrupt() == 130
    assert "Traceback" not in run.out


@pytest.mark.slow
def test_a_file_that_becomes_wrong_is_told_and_watched(watch):
    run = watch("run", "--watch", "-C", ".")
    run.wait_for("Ctrl-C ends")
    save_by_rename(run.folder / "tasks.toml", FILE.replace("inputs", "inpits"))
    run.wait_for("did you mean `inputs`?")
    run.wait_for("Ctrl-C ends", 2)
    save_by_rename(run.folder / "plugins" / "w.py", PLUGIN + "(\n")  # it is still watched
    run.wait_for("Ctrl-C ends", 3)
    save_by_rename(run.folder / "tasks.toml", FILE)
    run.wait_for("could not be loaded")
    run.wait_for("Ctrl-C ends", 4)
    (run.folder / "tasks.toml").unlink()
    run.wait_for("there is no tasks.toml here")
    run.wait_for("Ctrl-C ends", 5)
    (run.folder / "tasks.toml").write_text(FILE)
    run.wait_for("could not be loaded", 2)
    run.wait_for("Ctrl-C ends", 6)
    save_by_rename(run.folder / "plugins" / "w.py", PLUGIN)
    run.wait_for("ended in", 2)
    assert run.interrupt(signal.SIGTERM) == 143


SLOW_PLUGIN = """
import os, time
from pathlib import Path
from runner import task

@task
def show(line):
    print("begin", line)
    while not Path("go").exists():
        time.sleep(0.01)
    print("finish", line)
"""


@pytest.mark.slow
def test_a_run_under_way_is_drained_first(watch):
    run = watch("run", "--watch", files={"plugins/w.py": SLOW_PLUGIN})
    run.wait_for("begin a")
    save_by_rename(run.folder / "list.txt", "b\n")
    run.wait_for("list.txt changed: draining the run that goes on")
    run.wait_for("what is queued drains")
    (run.folder / "go").touch()
    run.wait_for("finish b")
    assert run.out.index("finish a") < run.out.index("running again") < run.out.index("begin b")
    run.wait_for("Ctrl-C ends")
    assert run.interrupt() == 130


@pytest.mark.slow
def test_ctrl_c_drains_the_run_and_ends_both(watch):
    run = watch("run", "--watch", files={"plugins/w.py": SLOW_PLUGIN})
    run.wait_for("begin a")
    pid = run.command_pid()
    run.process.send_signal(signal.SIGINT)
    run.wait_for("what is queued drains")
    (run.folder / "go").touch()
    assert run.process.wait(LIMIT) == 130
    assert "finish a" in run.out
    assert "running again" not in run.out
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_the_second_ctrl_c_ends_it_at_once(watch):
    run = watch("run", "--watch", files={"plugins/w.py": SLOW_PLUGIN})
    run.wait_for("begin a")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("what is queued drains")
    assert run.interrupt() == 130
    assert "Ctrl-C, again: ending at once" in run.out


@pytest.mark.slow
def test_the_command_dies_with_its_watcher(watch):
    run = watch("run", "--watch", files={"plugins/w.py": SLOW_PLUGIN})
    run.wait_for("begin a")
    command = psutil.Process(run.command_pid())
    run.process.kill()
    command.wait(LIMIT)


MAKES = """
[params]
out = { type = "path", default = "out.txt" }

[tasks.make]
mode = "thread"
with = { path = "${out}" }
"""
MAKES_PLUGIN = """
from pathlib import Path
from runner import task

@task
def make(*, path):
    Path(path).write_text("x")
    print("it is there")
"""


@pytest.mark.slow
@pytest.mark.parametrize("existed", [False, True])
def test_what_a_run_writes_itself_runs_it_once_more_at_most(watch, existed):
    files = {"tasks.toml": MAKES, "plugins/w.py": MAKES_PLUGIN} | ({"out.txt": "old"} if existed else {})
    run = watch("run", "--watch", "--log", "raw", files=files)
    run.wait_for("so it is taken for its output")
    run.wait_for("Ctrl-C ends")
    assert run.out.count("it is there") == 1 + existed
    save_by_rename(run.folder / "out.txt", "by hand")
    run.wait_for("out.txt changed: running again", 1 + existed)
    assert run.interrupt() in {130, -2}


TESTS = """
[[tests]]
name = "two lines"
feed.lines = ["x", "y"]
expect.tasks.show.done = 2
"""


@pytest.mark.slow
def test_tests_run_again_as_well(watch):
    run = watch("test", "--watch", "-k", "two", files={"tasks.toml": FILE + TESTS})
    run.wait_for("1 passed")
    run.wait_for("Ctrl-C ends")
    save_by_rename(run.folder / "plugins" / "w.py", PLUGIN.replace("print", "return 1 / 0"))
    run.wait_for("1 failed")
    run.wait_for("Ctrl-C ends", 2)
    save_by_truncation(run.folder / "plugins" / "w.py", PLUGIN)
    run.wait_for("1 passed", 2)
    assert run.interrupt() == 130


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_reaches_the_watcher_alone(watch):
    ours, theirs = pty.openpty()
    run = watch(
        "run", "--watch", files={"plugins/w.py": SLOW_PLUGIN}, stdin=theirs, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    run.wait_for("begin a")
    os.write(ours, b"\x03")
    run.wait_for("what is queued drains")
    (run.folder / "go").touch()
    assert run.process.wait(LIMIT) == 130
    assert "again" not in run.out.partition("what is queued drains for at most 10s; Ctrl-C again ends")[2]
    os.close(ours)


def test_without_watchfiles_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'toml-runner\[watch\]'"):
        CommandWatcher([], list, print)


def test_standard_input_cannot_be_watched(project):
    outcome = project({"x": ""}).run("-", "--watch")
    assert (outcome.exit, "standard input is read once" in outcome.err) == (2, True)


# -- what is watched -------------------------------------------------------------------------------

PARAMS = """
plugins = ["own", "plug.py", "elsewhere.module"]

[params]
list  = { type = "path", default = "list.txt" }
out   = { type = "path", default = "out.txt" }
model = { type = "path", default = "model" }
none  = { type = "path", default = "-" }
word  = "list.txt"

[queues]
lines = {}

[tasks.read]
call = "std.lines"
with = { path = "${list}" }
outputs = "lines"

[tasks.write]
call = "std.write_lines"
with = { path = "${out}" }
inputs = "lines"

[tasks.alone]
call = "mine.part:work"
with = { model = "${model}", other = "${none}", word = "${word}" }
"""


def test_the_file_its_plugins_its_modules_and_its_path_params_are_watched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own", "mine", "model"):
        (tmp_path / name).mkdir()
    for name in ("list.txt", "plug.py", "given.env", "mine/part.py"):
        (tmp_path / name).touch()
    (tmp_path / "tasks.toml").write_text(PARAMS)
    found = {each.name: each for each in find_watched_paths(config.examine("tasks.toml"), ["given.env"])}
    assert {name: (each.role, each.is_folder) for name, each in found.items()} == {
        "tasks.toml": ("source", False),
        "given.env": ("source", False),
        "own": ("source", True),
        "plug.py": ("source", False),
        "elsewhere.module": ("source", False),
        "mine/part.py": ("source", False),
        "list.txt": ("input", False),
        "model": ("unsure", True),
        ".runner": ("state", False),
    }
    assert "out.txt" not in found, "a param that only sinks use is what the run writes"
    assert found["own"].has(str(tmp_path / "own" / "deep" / "x.py"))
    assert not found["own"].has(str(tmp_path / "own" / "x.json"))
    assert found["model"].has(str(tmp_path / "model" / "x.json"))


# -- the loop, with a command and watchers that are told by the test ---------------------------------


class Command:
    """Stands for the process of a run."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class Loop:
    """A CommandWatcher whose runs are played: each is the list of paths that change while it goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *paths: WatchedPath) -> None:
        pytest.importorskip("watchfiles")
        self.told: list[str] = []
        self.watcher = CommandWatcher([], list, self.told.append)
        self.watcher._paths = list(paths)
        self.commands: list[Command] = []
        monkeypatch.setattr(watching, "_SETTLE_SECONDS", 0.001)
        monkeypatch.setattr(self.watcher, "_started_command", self._started)

    @contextlib.contextmanager
    def _started(self) -> Iterator[Command]:
        self.commands.append(Command())
        yield self.commands[-1]

    def run(self, *changes: str, late: tuple[str, ...] = (), signals: tuple[int, ...] = ()) -> set[str]:
        for path in changes:
            self.watcher._events.put(("changed", {path}))
        for number in signals:
            self.watcher._events.put(("signal", number))
        self.watcher._events.put(("ended", 0))
        for path in late:
            self.watcher._events.put(("changed", {path}))
        return self.watcher._run_once()

    def idle(self, *changes: str) -> set[str]:
        for path in changes:
            self.watcher._events.put(("changed", {path}))
        return self.watcher._await_change()


INPUT, UNSURE, SOURCE = (WatchedPath(f"/w/{role}", role) for role in ("input", "unsure", "source"))


def test_what_changes_during_runs_in_a_row_is_what_they_write(monkeypatch):
    loop = Loop(monkeypatch, UNSURE)
    assert loop.run("/w/unsure") == {"/w/unsure"}
    assert loop.run(late=("/w/unsure",)) == set(), "its last write comes when the run has ended"
    assert "has changed during 2 runs in a row, so it is taken for its output" in "".join(loop.told)
    assert loop.run("/w/unsure") == set()
    assert all(not command.signals for command in loop.commands), "no run was stopped for that"
    assert loop.idle("/w/unsure") == {"/w/unsure"}, "nothing runs, so it was somebody else"
    assert loop.run("/w/unsure") == {"/w/unsure"}
    assert loop.run() == set()
    assert loop.run("/w/unsure") == {"/w/unsure"}, "not in a row"


def test_an_input_drains_the_run_each_time_but_not_for_ever(monkeypatch):
    loop = Loop(monkeypatch, INPUT, SOURCE)
    found = [loop.run("/w/input", "/w/input") for _ in range(6)]
    assert found == [{"/w/input"}] * 4 + [set()] * 2
    assert [command.signals for command in loop.commands] == [[signal.SIGINT]] * 5 + [[]]
    for _ in range(10):
        assert loop.run("/w/source") == {"/w/source"}, "the file itself always counts"
    assert loop.commands[-1].signals == [signal.SIGINT]


def test_what_a_run_has_made_is_its_own(monkeypatch):
    loop = Loop(monkeypatch, WatchedPath("/w/deep/made", "unsure", existed=False))
    assert loop.run("/w/deep") == set()
    assert "was made by the run" in "".join(loop.told)


def test_signals_are_handed_on_and_the_first_one_counts(monkeypatch):
    loop = Loop(monkeypatch, SOURCE)
    loop.run(signals=(signal.SIGQUIT, signal.SIGCONT))
    assert (loop.watcher._signal, loop.commands[0].signals) == (0, [signal.SIGQUIT, signal.SIGCONT])
    loop.run("/w/source", signals=(signal.SIGHUP, signal.SIGINT))
    assert (loop.watcher._signal, loop.commands[1].signals) == (15, [signal.SIGINT, signal.SIGHUP, signal.SIGINT])


def test_a_watcher_that_fails_is_told(monkeypatch):
    loop = Loop(monkeypatch, SOURCE)
    loop.watcher._events.put(("failed", "/w: too many"))
    with pytest.raises(ResourceError, match="cannot watch /w: too many; WATCHFILES_FORCE_POLLING=1"):
        loop.run()


def test_what_is_not_there_is_watched_where_it_will_be(tmp_path):
    path = tmp_path / "a" / "b" / "list.txt"
    assert watching._nearest_folder(str(path)) == str(tmp_path)
    wanted = WatchedPath(str(path), "input", existed=False)
    assert wanted.has(str(tmp_path / "a"))
    assert not wanted.has(str(tmp_path / "other"))
    assert not WatchedPath(str(path)).has(str(tmp_path / "a"))
