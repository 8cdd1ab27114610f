"""What other systems do not have: where Linux's names may stand, and what runner's commands do on Windows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WINDOWS = ROOT / "tests" / "masked" / "windows.py"
FILE = '[queues]\na = {}\n[tasks.read]\ncall = "std.range"\nwith = { start = 0, stop = 3 }\noutputs = ["a"]\n'
FILE += '[tasks.show]\ncall = "builtins:print"\ninputs = ["a"]\n'
TESTS = '[[tests]]\nname = "all"\nfeed.a = [1]\n'


def on_windows(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "tasks.toml").write_text(FILE)
    (folder / "tested.toml").write_text(FILE + TESTS)
    command = [sys.executable, str(WINDOWS), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["check"], 0, "no problems (2 tasks, 1 queue)"),
                (["test"], 2, "no test in tasks.toml"),
                (["test", "tested.toml"], 3, "which this system does not have"),
                (["--help"], 0, "graph"),
                (["--version"], 0, "runner "),
                (["graph"], 0, "-> a -> show"),
                (["run", "--dry-run"], 0, "Nothing was started."),
                (["explain", "E302"], 0, "E302"),
                (["schema"], 0, '"$schema"'),
                (["list", "functions"], 0, "std.range("),
                (["list", "runs"], 0, ""),
                (["ps"], 0, "no run is going on"),
            )
        ),
        (["run"], 3, "a run needs process groups, Unix sockets and POSIX signals, which this system does not have; "),
    ],
)
def test_what_only_reads_works_without_posix(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """And a run says in one sentence why there is none, before anything of it is there."""
    outcome = on_windows(tmp_path, *words)
    assert said in outcome.stdout + outcome.stderr, outcome
    assert outcome.returncode == code, outcome
    assert "fault of runner's own" not in outcome.stderr
    assert not (tmp_path / ".runner").exists()


#: Names that Linux alone has, as a part of a name or of a text in the code.
LINUX_ONLY = re.compile(
    r"memfd_create|MFD_|pidfd|SCM_RIGHTS|SCM_CRED|send_fds|recv_fds|CMSG_|F_SETSIG|F_SETOWN|O_ASYNC|O_TMPFILE|O_PATH"
    r"|F_ADD_SEALS|F_GET_SEALS|F_SEAL|F_(?:GET|SET)PIPE_SZ|posix_fallocate|fdatasync|sched_(?:get|set)|eventfd|signalfd"
    r"|TCP_INFO|TCP_USER_TIMEOUT|SO_PEERCRED|prctl|PDEATHSIG|SUBREAPER|EPOLL|epoll\b|MADV_|MAP_NORESERVE|MAP_POPULATE"
    r"|splice|copy_file_range|preadv|waitid|WNOWAIT|sigtimedwait|setns|unshare|inotify|^/proc|^/sys/fs/cgroup|^/dev/shm"
)


def linux_names(path: Path) -> Iterator[str]:
    """Yield what of Linux a module's code names: attributes, variables and texts, but no docstring and no comment."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        word = getattr(node, "attr", None) or getattr(node, "id", None)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            word = node.value
        if isinstance(word, str) and (found := LINUX_ONLY.search(word)):
            yield found.group()


def modules() -> list[Path]:
    return sorted((ROOT / "runner").rglob("*.py"))
