"""The two fixtures of every test: `census`, which looks for what it left behind, and `project`, a temporary folder."""

from __future__ import annotations

import compileall
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers import ROOT, Census, Project
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# The same examples each time, so that a failure says something about a change; RUNNER_EXPLORE=1 looks for new ones.
settings.register_profile("runner", derandomize=not os.environ.get("RUNNER_EXPLORE"))
settings.load_profile("runner")


def pytest_sessionstart() -> None:
    """Bytecode, and Ctrl-C, for the hundreds of commands that are started here.

    Where importing leaves no bytecode behind, each would compile runner anew; and a shell starts what it puts into the
    background deaf to Ctrl-C, as would then be all that it starts.
    """
    if sys.dont_write_bytecode:
        compileall.compile_dir(ROOT / "runner", quiet=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def census() -> Iterator[None]:
    """Fail a test that leaves a child process, a thread, a descriptor or shared memory behind.

    A resource tracker or a forkserver that was there before may stay; one that the test started must go.
    """
    before = Census.take()
    yield
    leaks = list(before.leaks())
    assert not leaks, "left behind: " + "; ".join(leaks)


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
