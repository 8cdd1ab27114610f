"""What tests share: loading a file as a module, a temporary project, and the count of what is left behind."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

    from command_server import CommandServer, ForkedCommand

    from runner.model import Config

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "RUNNER_TEST_TOKEN"
#: The name of this worker of pytest-xdist; empty in a session without workers, and in the one that starts them.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
#: True in `pytest -m slow`; pytest gives its command line to its workers in the same way.
IS_SLOW_SESSION = False


def load(path: str) -> ModuleType:
    """Import the file at `path` (from the top of the repository) under a private name, as runner loads plugins."""
    name = "_loaded_" + path.removesuffix(".py").replace("/", "_").replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def source(content: str | Callable[..., Any]) -> str:
    """What to write into a file: dedented text, or the body of a function."""
    if callable(content):
        _, _, content = inspect.getsource(content).partition(":\n")
    return textwrap.dedent(content.lstrip("\n"))


def examples(few: int, full: int, **more: Any) -> Callable[[Any], Any]:
    """Give a test of Hypothesis a number of examples that shows most mistakes, and the full one in `-m slow`."""
    number = full if IS_SLOW_SESSION else few

    def decorate(test: Any) -> Any:
        test = settings(**{"max_examples": number, "deadline": None, **more})(test)
        return pytest.mark.slow(test) if IS_SLOW_SESSION else test

    return decorate


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip a test where a package of the extra `examples` is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} missing: pip install -e '.[examples]'")


# --- one run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    command: list[str]
    exit: int
    out: str
    err: str

    @cached_property
    def json(self) -> Any:
        """Standard output as JSON: all of it, or else its last line (`--json` after what the tasks printed)."""
        try:
            return json.loads(self.out)
        except ValueError:
            return json.loads(self.out.splitlines()[-1])

    @property
    def lines(self) -> list[str]:
        """Standard output, sorted: what workers print comes in any order."""
        return sorted(self.out.splitlines())

    def __str__(self) -> str:
        return f"$ {shlex.join(self.command)}\nexit {self.exit}\n--- out\n{self.out}\n--- err\n{self.err}"


@dataclass(frozen=True)
class Running:
    """A command under way, for tests that send signals: `process.send_signal(...)`, then `finish()`."""

    process: subprocess.Popen[str] | ForkedCommand
    token: str

    def finish(self, timeout: float = 60, input: str | None = None) -> Outcome:  # noqa: A002  as subprocess names it
        """Wait for the end; fail when it does not come in time, or when a process is left behind."""
        try:
            out, err = self.process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            kill_all(self.processes())  # workers have groups of their own, and would hold the pipes open
            out, err = self.process.communicate()
            pytest.fail(f"no end after {timeout} s\n{self.outcome(out, err)}")
        outcome = self.outcome(out, err)
        left = still_there(self.processes(), limit=2)
        names = [describe(process) for process in left]
        kill_all(left)
        assert not names, f"processes left behind: {names}\n{outcome}"
        return outcome

    def processes(self) -> list[psutil.Process]:
        """Return every process that this command has left."""
        return marked(self.token, self.process.pid)

    def outcome(self, out: str, err: str) -> Outcome:
        assert self.process.returncode is not None
        assert isinstance(self.process.args, list)
        return Outcome(list(map(str, self.process.args)), self.process.returncode, out, err)


@dataclass(frozen=True)
class Project:
    """A temporary folder with a `tasks.toml`, plugins and whatever else, in which runner is run."""

    path: Path

    def write(self, files: Mapping[str, str | Callable[..., Any]]) -> None:
        for name, content in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source(content), encoding="utf-8")

    def start(self, *args: object, env: Mapping[str, str] | None = None, verb: str = "run", **popen: Any) -> Running:
        """Execute `python -m runner run ARGS` in a process group of its own, without a terminal."""
        token, environment = marked_environment(env or {})
        command = [sys.executable, "-m", "runner", verb, *map(str, args)]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        settings = {"cwd": self.path, "start_new_session": True, "encoding": "utf-8", "errors": "replace"}
        process = subprocess.Popen(command, env=environment, **{**pipes, **settings, **popen})
        return Running(process, token)

    def run(
        self,
        *args: object,
        timeout: float = 60,
        input: str | None = None,  # noqa: A002  as subprocess names it
        env: Mapping[str, str] | None = None,
        verb: str = "run",
        **popen: Any,
    ) -> Outcome:
        """Run `runner run ARGS` to its end; no process may be left.

        The process is forked from one that has imported runner, unless the test says something that only a new
        interpreter can heed: its input, its streams, or what Python reads when it starts.
        """
        at_start = any(name.startswith(("PYTHON", "LC_", "LANG")) for name in {*(env or {})} - {"PYTHONPATH"})
        one_output = popen == {"stderr": subprocess.STDOUT}
        if at_start or input is not None or (popen and not one_output) or not SERVERS:
            return self.start(*args, env=env, verb=verb, **popen).finish(timeout, input)
        return self.fork(*args, env=env, verb=verb, one_output=one_output).finish(timeout)

    def fork(
        self, *args: object, env: Mapping[str, str] | None = None, verb: str = "run", one_output: bool = False
    ) -> Running:
        """Start `runner run ARGS`, forked, for a test that sends it signals; the next starts when this has ended."""
        token, environment = marked_environment(env or {})
        return Running(SERVERS[-1].start([verb, *map(str, args)], self.path, environment, one_output), token)


#: The server that forks commands, once the session has started it.
SERVERS: list[CommandServer] = []


def marked_environment(env: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return a token, and an environment that carries it to all processes of one run."""
    token = uuid.uuid4().hex
    return token, {**os.environ, "COLUMNS": "200", **env, TOKEN: token}


# --- the census ------------------------------------------------------------------------------------------------------


def marked(token: str, session: int | None = None) -> list[psutil.Process]:
    """Return every process that inherited the token of one run, or is of its session, however its parents died."""
    entry, found = f"{TOKEN}={token}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # it has gone, or is not ours to read and so not ours
            pid = int(folder.name)
            if os.getsid(pid) == session or entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(pid))
    return found


def existing(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def still_there(processes: list[psutil.Process], limit: float) -> list[psutil.Process]:
    """Those that have not gone after `limit` seconds; a zombie of somebody else's has gone as far as we care."""
    _, alive = psutil.wait_procs(processes, timeout=limit)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {shlex.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        return f"{process.pid} (gone)"


@dataclass(frozen=True)
class Census:
    """What this process holds at one moment."""

    children: set[int]
    threads: set[threading.Thread]
    descriptors: Counter[str]
    shared: set[str]

    @classmethod
    def take(cls) -> Census:
        return cls(descendants(), set(threading.enumerate()), descriptors(), shared_memory())

    def leaks(self, limit: float = 5) -> Iterator[str]:
        """What is there now and was not then, once it had `limit` seconds to go away."""
        for generation in (
            1,
            2,
        ):  # an object that only waits for its collection holds nothing; it is young in most cases
            if Census.take() == self:
                return
            gc.collect(generation)
        end = time.monotonic() + limit
        left = still_there(list(existing(descendants() - self.children)), limit)
        names = [describe(process) for process in left]
        kill_all(left)
        yield from (f"child process {name}" for name in names)
        for thread in set(threading.enumerate()) - self.threads:
            if not thread.name.startswith("Dummy-"):  # made by asking in a foreign thread; cannot be joined
                thread.join(max(0, end - time.monotonic()))
                if thread.is_alive():
                    yield f"thread {thread.name}"
        yield from lasting("descriptor", lambda: list((descriptors() - self.descriptors).elements()), self.grown, end)
        yield from lasting("shared memory", lambda: sorted(shared_memory() - self.shared), lambda: True, end)

    def grown(self) -> bool:
        """More descriptors than then: one that was replaced by another is no leak."""
        return descriptors().total() > self.descriptors.total()


def lasting(kind: str, look: Callable[[], list[str]], matters: Callable[[], bool], end: float) -> Iterator[str]:
    """Findings that are still there at `end`: nothing announces the end of a descriptor or of a name, so we look again.

    Other programs use /dev/shm too, for moments.
    """
    pause = threading.Event()
    while (found := look() if matters() else []) and time.monotonic() < end:
        pause.wait(0.05)
    yield from (f"{kind} {name}" for name in found)


#: The parent of each process of the machine, as it was when the process was seen first.
_parents: dict[int, int] = {}


def descendants() -> set[int]:
    """Return the children of this process, their children, and so on.

    Asked twice by each test, so it reads /proc of a process only when that is new, or has lost its parent.
    """
    if not os.path.isdir("/proc/self"):  # noqa: PTH112  twice for each test: paths take their time
        return {process.pid for process in psutil.Process().children(recursive=True)}
    here = {int(name) for name in os.listdir("/proc") if name.isdecimal()}  # noqa: PTH208  the same
    for pid in _parents.keys() - here:
        del _parents[pid]
    for pid in here:
        if (parent := _parents.get(pid)) != 0 and parent not in here:  # 0: the first processes have none
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  the same
                _parents[pid] = int(file.read().rpartition(b")")[2].split()[1])
    found, generation = set[int](), {os.getpid()}
    while generation:
        generation = {pid for pid, parent in _parents.items() if parent in generation}
        found |= generation
    return found


def descriptors() -> Counter[str]:
    """What the open descriptors of this process point at (Linux; empty elsewhere)."""
    found: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  the same
            with contextlib.suppress(OSError):  # the one that lists the folder has gone
                found[os.readlink(f"/proc/self/fd/{name}")] += 1  # noqa: PTH115  the same
    return found


def shared_memory() -> set[str]:
    """Return the names that Python's multiprocessing, and runner, would leave there; other programs have theirs.

    Such a name does not say which process made it. A worker of pytest-xdist therefore sees only those that bear its own
    name, or the leak of one test would fail the tests of all workers; the session that started the workers looks for
    the others when all tests have ended (`conftest.py`).
    """
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []  # noqa: PTH112, PTH208  the same
    named = {name for name in names if name.startswith(("psm_", "sem.mp-", "mp-", "pym-", "runner"))}
    return {name for name in named if f"-{WORKER}-" in name} if WORKER else named


def load_config(source: str | Path, **options: Any) -> Config:
    """A file as `config.examine` reads it; ConfigError with every problem in it."""
    from runner import check, config

    found = config.examine(source, **options)
    check.raise_if_errors(found.problems, found)
    return found
