"""What other systems do not have: where Linux's names may stand, and what runner's commands do on Windows."""

from __future__ import annotations

import ast
import functools
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
    r"|TCP_INFO|TCP_USER_TIMEOUT|SO_PEERCRED|prctl|PDEATHSIG|SUBREAPER|\bEPOLL|\bepoll\b|MADV_|MAP_NORESERVE|MAP_POPULATE"
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
        if isinstance(node, ast.alias):
            word = node.name
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            word = node.value
        if isinstance(word, str) and (found := LINUX_ONLY.search(word)):
            yield found.group()


def modules() -> list[Path]:
    return sorted((ROOT / "runner").rglob("*.py"))


#: Where these names may stand: one module for each floor, `here` the bottom; and what only speaks of them.
PLACES = {
    "here": ("linux_only.py", "cgroups.py"),
    "shm": ("shm/linux_only.py",),
    "transport": ("transport/linux_only.py",),
    "engines": ("engines/early_fork.py", "engines/spawn.py", "engines/fork_server.py"),
    "launch": ("launch/ray.py",),
    "looks at what there is, for `doctor`": ("cli/machine_checks.py",),
    "paths that users write": ("check/functions.py", "config/toml.py"),
    "paths that /proc has shown": ("worker/orderly_exit.py",),
}
#: What of Linux the engines' three modules name: the early fork is Linux's own, the others hand descriptors over.
ENGINES = {
    "engines/early_fork.py": {"/proc"},
    "engines/spawn.py": {"send_fds"},
    "engines/fork_server.py": {"recv_fds"},
}
#: The rows of the table in *Installation and platforms*, and the names that each is about.
FACILITIES = {
    "memory files (memfd)": ("memfd_create", "MFD_", "F_ADD_SEALS", "F_GET_SEALS", "F_SEAL", "MADV_", "MAP_NORESERVE", "preadv"),
    "descriptors sent over sockets (SCM_RIGHTS)": ("SCM_RIGHTS", "send_fds", "recv_fds", "CMSG_"),
    "fork server": ("sched_get",),
    "pidfd": ("pidfd",),
    "a signal when a pipe closes (F_SETSIG)": ("F_SETSIG", "F_SETOWN", "O_ASYNC"),
    "epoll, eventfd": ("epoll", "EPOLL", "eventfd"),
    "/proc": ("/proc",),
    "preallocation (posix_fallocate)": ("posix_fallocate",),
    "fdatasync": ("fdatasync",),
    "size of a pipe (F_GETPIPE_SZ)": ("F_GETPIPE_SZ",),
    "quota of a container (cgroups), affinity": ("/sys/fs/cgroup", "sched_get"),
    "state of a connection (TCP_INFO, TCP_USER_TIMEOUT)": ("TCP_INFO", "TCP_USER_TIMEOUT"),
    "death with the parent (PR_SET_PDEATHSIG)": ("prctl",),
}  # fmt: skip


@functools.cache
def named() -> dict[str, set[str]]:
    found = {path.relative_to(ROOT / "runner").as_posix(): set(linux_names(path)) for path in modules()}
    return {name: names for name, names in found.items() if names}


def test_linuxs_names_stand_in_one_module_of_each_floor() -> None:
    found = named()
    allowed = {name for names in PLACES.values() for name in names}
    assert found.keys() - allowed == set(), {name: found[name] for name in found.keys() - allowed}
    assert allowed - found.keys() == set(), "a place without any"
    assert {name: found[name] for name in ENGINES} == ENGINES
    for name in (*PLACES["paths that users write"], *PLACES["paths that /proc has shown"]):
        assert found[name] == {"/proc"}, name


@pytest.mark.parametrize(
    "line", ["os.memfd_create('x')", "path = '/proc/self/fd'", "getattr(os, 'pidfd_open')", "from os import eventfd"]
)
def test_a_name_in_another_module_would_be_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f'"""Says memfd_create and /proc."""\n# pidfd_open\nimport os\n{line}\n')
    assert len(list(linux_names(tmp_path / "module.py"))) == 1


@pytest.mark.slow
def test_the_table_of_the_page_has_what_the_code_uses() -> None:
    page = (ROOT / "docs/how-to/install.md").read_text()
    table = page.partition("<!-- platforms -->")[2].partition("<!-- end -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == [*FACILITIES]
    about = {name for names in FACILITIES.values() for name in names}
    unknown = {name for names in named().values() for name in names} - about
    assert not unknown, f"used, and in no row of the table: {unknown}"
    used = {name for names in named().values() for name in names}
    assert not about - used, f"in a row of the table, and not used: {about - used}"
