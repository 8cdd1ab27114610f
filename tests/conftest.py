"""The two fixtures of every test: `census`, which looks for what it left behind, and `project`, a temporary folder.

And what is the session's: its workers, its tiers (`-m quick`, the default, `-m slow`), and what it left behind itself.
"""

from __future__ import annotations

import compileall
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helpers
import pytest
from _pytest.assertion import rewrite
from _pytest.doctest import DoctestModule
from command_server import running as command_server_running
from helpers import ROOT, SERVERS, WORKER, Census, Project, lasting, shared_memory
from hypothesis import settings

from runner.engines import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

#: Parallel workers of `-m quick`, whose tests compute.
QUICK_WORKERS = min(8, os.cpu_count() or 1)
#: Those of other sessions of many files. Most tests wait for processes more than they compute, so two for a core, in at most 4 GB.
WORKERS = min(8, 2 * (os.cpu_count() or 1))
#: What `-m quick` runs: what starts no worker and no command, in seconds.
QUICK = ("runner", "tests/config", "tests/report", "tests/unit")
#: Files there that start some all the same.
STARTING = {
    *("report/test_commands.py", "report/test_live_page.py", "unit/test_bench.py", "unit/test_command_reports.py"),
    *("unit/test_conformance.py", "unit/test_each_file.py", "unit/test_launcher.py", "unit/test_output.py"),
    *("unit/test_preload.py", "unit/test_sent_code.py", "unit/test_spawn.py"),
}
#: Files there that take some seconds each: whole runs on a virtual clock, and files on a real disk.
TAKING_SECONDS = {
    *("unit/test_durable_simulation.py", "unit/test_grain_simulation.py", "unit/test_ledger_file.py"),
    *("unit/test_worker_scaling.py",),
}

# The same examples each time, so that a failure says something about a change; RUNNER_EXPLORE=1 looks for new ones.
# No example has a time limit: a machine that has much else to do is no bug.
settings.register_profile("runner", derandomize=not os.environ.get("RUNNER_EXPLORE"), deadline=None)
settings.load_profile("runner")

shared_before = pytest.StashKey[set[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Give a session of whole folders workers (pytest-xdist), unless the command line says otherwise.

    One file, or one test, runs in this process: it starts at once, can be debugged, and prints with `-s`.
    A worker is a session of its own that has no workers, and is asked here too.
    """
    option = config.option
    folders = any(Path(argument).is_dir() for argument in config.args)
    alone = option.usepdb or option.trace or option.collectonly or option.capture == "no"
    if not WORKER and folders and not alone and getattr(option, "numprocesses", 0) is None and option.dist == "no":
        option.numprocesses = QUICK_WORKERS if option.markexpr == "quick" else WORKERS
        option.dist = "worksteal"


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[Any], list[Any]]:
    """Import a test file for its doctests only if it has any: 1 s of each worker's collection."""
    found = yield
    if ">>>" in file_path.read_text(encoding="utf-8"):
        return found
    return [each for each in found if not isinstance(each, DoctestModule)]


def pytest_configure(config: pytest.Config) -> None:
    """Tell the modules of tests, before they are imported, whether slow tests are what is asked for."""
    helpers.IS_SLOW_SESSION = config.option.markexpr == "slow"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Bytecode, Ctrl-C and Ctrl-\\, for the hundreds of commands that are started here.

    Where importing leaves no bytecode behind, each would compile runner anew; and a shell starts what it puts into the
    background deaf to both keys, as would then be all that it starts.
    """
    if not WORKER:
        session.stash[shared_before] = shared_memory()
        compileall.compile_dir(ROOT / "runner", quiet=2)
        if session.config.option.dist != "no":
            rewrite_asserts(session.config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def rewrite_asserts(config: pytest.Config) -> None:
    """Rewrite the asserts of all files once, before the workers do so at the same time, each for itself.

    The start of a session in a fresh clone: 31 s of CPU without, 23 s with; of any other: 15 s.
    """
    names = [path for path in (ROOT / "tests").rglob("*.py") if path.name.startswith(("test_", "conftest"))]
    if config.option.markexpr == "quick":
        names = [path for path in names if path.relative_to(ROOT).as_posix().startswith(QUICK)]
    share = os.cpu_count() or 1
    children = []
    for number in range(share):
        if not (pid := os.fork()):
            try:
                for path in names[number::share]:
                    rewrite_file(path, config)
            finally:  # whatever happened: this is private to pytest, and what is not there the workers rewrite
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def rewrite_file(path: Path, config: pytest.Config) -> None:
    folder = rewrite.get_cache_dir(path)
    cached = folder / f"{path.stem}{rewrite.PYC_TAIL}"
    if rewrite.try_makedirs(folder) and rewrite._read_pyc(path, cached) is None:
        source, code = rewrite._rewrite_test(path, config)
        rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, cached)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the rewritten asserts for the next session, also where importing leaves no bytecode behind.

    To rewrite them takes two thirds of the collection, in each worker.
    """
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = was


def is_quick(path: Path) -> bool:
    name = path.relative_to(ROOT).as_posix()
    return name.startswith(QUICK) and name.removeprefix("tests/") not in STARTING | TAKING_SECONDS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, of `-m quick`, the folders that have nothing for it: to collect them all takes longer than some tiers."""
    if config.option.markexpr != "quick" or not collection_path.is_relative_to(ROOT):
        return None
    path = collection_path.relative_to(ROOT).as_posix()
    leads_there = path in {".", "tests"} or path == "tests/conftest.py"
    return None if leads_there or is_quick(collection_path) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the quick tier."""
    for item in items:
        if is_quick(item.path) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session whose tests, in whichever worker, left shared memory behind."""
    if WORKER:
        return
    before = session.stash.get(shared_before, set())
    left = list(lasting("shared memory", lambda: sorted(shared_memory() - before), lambda: True, time.monotonic() + 5))
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write(f"\nleft behind by these tests: {'; '.join(left)} (`-n 0` says by which test)\n")


@pytest.fixture(scope="session")
def command_server() -> Iterator[None]:
    """Start the process that forks commands before the first test, so that the census of no test counts it.

    A system on which no descriptors can be sent has none: each command is executed there.
    """
    if not hasattr(socket, "send_fds"):
        yield
        return
    with command_server_running() as server:
        SERVERS.append(server)
        yield
        SERVERS.remove(server)


@pytest.fixture(autouse=True)
def census(command_server: None) -> Iterator[None]:
    """Fail a test that leaves a child process, a thread, a descriptor or shared memory behind.

    A resource tracker or a forkserver that was there before may stay; one that the test started must go.
    """
    before = Census.take()
    yield
    leaks = list(before.leaks())
    assert not leaks, "left behind: " + "; ".join(leaks)


@pytest.fixture(scope="module")
def fork_server(command_server: None) -> Iterator[None]:
    """Have the fork servers of runs in this process forked from one that has imported runner, as commands are.

    The start of one as an interpreter takes 0.2 s of CPU. For modules whose subject is not how workers start.
    """
    with pytest.MonkeyPatch.context() as patch:
        if SERVERS:
            patch.setattr(spawn, "_start_server", SERVERS[-1].start_fork_server)
        yield


@pytest.fixture(scope="module")
def short_diffs() -> Iterator[None]:
    """Have a failed comparison told in a few lines.

    Where CI is set, pytest works out the whole difference: of megabytes, longer than the time limit of a test, and the
    worker that is ended then leaves no word of what differed.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "BUILD_NUMBER"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Mapping[str, str | Callable[..., Any]]], Project]:
    """Make a temporary project: `project({"tasks.toml": text, "plugins/x.py": text or function}).run("tasks.toml")`.

    A function stands for the file that has its body; `run` gives an `Outcome(exit, out, err, json, lines)`.
    """

    def make(files: Mapping[str, str | Callable[..., Any]]) -> Project:
        made = Project(tmp_path)
        made.write(files)
        return made

    return make
