"""runner on a system that lacks what only Linux has: same balance, same exit codes (`tests/masked/sitecustomize.py`)."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import test_matrix
from helpers import existing, kill_all, still_there
from masked import sitecustomize
from masked_platform import environment, run_tests

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers import Project, Running

    Make = Callable[..., Project]

LIMIT = 60.0

LOOK = '''
import importlib, json, multiprocessing, os, sys
from runner import task

@task
def names(folder):
    yield from json.loads(open(f"{folder}/names").read())

@task
def look(item, folder):
    """What of the masked things is there, in a worker."""
    module, name = item
    if module == "path":
        try:
            found = bool(os.listdir(name))
        except OSError:
            found = False
    else:
        found = hasattr(importlib.import_module(module), name)
    yield f"{module}.{name}", found, multiprocessing.get_start_method(), len(multiprocessing.current_process().name)
'''

LOOK_FILE = """
[queues]
asked = {}
seen  = {}
[tasks.names]
call = "names"
args = ["."]
mode = "process"
outputs = ["asked"]
[tasks.look]
with = { folder = "." }
mode = "process"
inputs = ["asked"]
outputs = ["seen"]
[tasks.keep]
call = "std.write_jsonl"
with = { path = "seen.jsonl" }
inputs = ["seen"]
"""


def there_here() -> list[tuple[str, str]]:
    """What is masked, of what is there without the mask."""
    named = [(module, name) for module, names in sitecustomize.NAMES.items() for name in names]
    found = [(module, name) for module, name in named if hasattr(import_module(module), name)]
    return [*found, *(("path", folder) for folder in sitecustomize.FOLDERS if Path(folder).is_dir())]


def test_a_masked_run_has_none_of_it_and_ends_well(project: Make) -> None:
    import json

    wanted = there_here()
    assert {("os", "memfd_create"), ("os", "pidfd_open"), ("socket", "send_fds"), ("path", "/proc")} <= {*wanted}
    assert {("fcntl", "F_SETSIG"), ("select", "epoll"), ("os", "posix_fallocate")} <= {*wanted}
    made = project({"tasks.toml": LOOK_FILE, "plugins/look.py": LOOK, "names": json.dumps(wanted)})
    outcome = made.start(env=environment()).finish(LIMIT)
    assert outcome.exit == 0, outcome
    assert f"{len(wanted)} done + 0 dead + 0 dropped + 0 left" in outcome.err, outcome
    seen = [json.loads(line) for line in (made.path / "seen.jsonl").read_text().splitlines()]
    assert sorted(name for name, *_ in seen) == sorted(f"{module}.{name}" for module, name in wanted)
    assert [name for name, is_there, *_ in seen if is_there] == []
    assert {method for _, _, method, _ in seen} == {"spawn"}


# -- the mask bites ------------------------------------------------------------------------------

#: What a floor would do that forgot that not every system is Linux.
CARELESS = {
    "memfd": "linux_only.memory_file = lambda name: os.memfd_create(name, os.MFD_CLOEXEC)",
    "pidfd": "linux_only.exit_fd = lambda pid: os.pidfd_open(pid)",
    "fork server": "linux_only.can_fork_workers = lambda: True",
    "epoll": "linux_only.HAS_EPOLL = True",
    "/proc": "from runner.supervisor import outcome; outcome.processor_ticks = lambda: os.listdir('/proc')",
    "F_SETSIG": "linux_only.HAS_PIPE_SIGNALS = True; linux_only.fcntl = fcntl",
}

CARELESS_PLUGIN = """
import fcntl, os
from runner import linux_only, task
from runner.std.commands import ProcessGroup
{bug}

@task
def work():
    group = ProcessGroup()
    group.group_id()
    group.kill()
"""


@pytest.mark.slow
@pytest.mark.parametrize("bug", CARELESS)
def test_a_masked_run_notices_who_uses_it(bug: str, project: Make) -> None:
    """In the process of a worker or of the run, whichever uses it; without the mask the same file runs well."""
    toml = '[tasks.work]\ncall = "work"\nmode = "process"\n'
    made = project({"tasks.toml": toml, "plugins/careless.py": CARELESS_PLUGIN.format(bug=CARELESS[bug])})
    said = made.start(env=environment(RUNNER_START_METHOD="forkserver")).finish(LIMIT)
    words = ("has no attribute", "No such file or directory (masked)")
    assert said.exit in {1, 70}, said
    assert any(word in said.err for word in words), said
    unmasked = made.start().finish(LIMIT)
    assert not any(word in unmasked.err for word in words), unmasked


# -- the suites ------------------------------------------------------------------------------------

KINDS_OF_DEATH = (("SIGKILL", "SIGSEGV", "abort"), ("_exit(0)", "_exit(3)"), ("close",), ("sys.exit",))


def pairwise_cells(victim: str) -> list[str]:
    """Each moment with each kind of death, whose ways take turns; with both victims, each pair of the matrix's words."""
    there = {tuple(map(str, cell.values)) for cell in test_matrix.cells()}
    turns = [itertools.cycle(ways) for ways in KINDS_OF_DEATH]
    at = ("middle", "tail").index(victim)
    found = []
    for number, moment in enumerate(test_matrix.MOMENTS):
        for kind, turn in enumerate(turns):
            way = next(turn)
            if (number + kind) % 2 == at and (victim, moment, way) in there:
                found.append(f"tests/faults/test_matrix.py::test_a_worker_dies[{victim}-{moment}-{way}]")
    return found


SUITES: dict[str, Callable[[], list[str]]] = {
    "conformance": lambda: ["tests/unit/test_conformance.py"],
    "forms": lambda: ["tests/integration/test_forms.py"],
    "faults amid": lambda: pairwise_cells("middle"),
    "faults at the end": lambda: pairwise_cells("tail"),
    "parts": lambda: [
        *("tests/unit/test_reactor.py", "tests/unit/test_launcher.py", "tests/unit/test_encryption.py"),
        *("tests/unit/test_lease_page.py", "tests/unit/test_ledger_file.py", "tests/unit/test_processors.py"),
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(660)
@pytest.mark.parametrize("suite", SUITES)
def test_masked_the_suites_pass(suite: str) -> None:
    outcome = run_tests(SUITES[suite](), "slow or not slow" if suite.startswith("faults") else "not slow")
    assert outcome.returncode == 0, outcome.stdout[-8000:] + outcome.stderr[-2000:]
    assert " passed" in outcome.stdout, outcome.stdout


@pytest.mark.slow
def test_a_session_whose_test_uses_what_is_masked_fails(tmp_path: Path) -> None:
    test = "import os\n\ndef test_memory_files():\n    os.close(os.memfd_create('x'))\n"
    (tmp_path / "test_uses.py").write_text(test)
    outcome = run_tests([str(tmp_path / "test_uses.py")])
    assert outcome.returncode == 1, outcome.stdout
    assert "has no attribute 'memfd_create'" in outcome.stdout


def test_the_pairs_are_all_pairs() -> None:
    cells = [name.partition("[")[2].rstrip("]") for victim in ("middle", "tail") for name in pairwise_cells(victim)]
    pairs = {(victim, way) for victim, _, way in (cell.split("-", 2) for cell in cells)}
    assert {way for _, way in pairs} == {*test_matrix.WAYS}
    moments = {tuple(cell.split("-")[:2]) for cell in cells}
    assert {moment for _, moment in moments} == {*test_matrix.MOMENTS}
    assert {victim for victim, _ in moments} == {"middle", "tail"}


# -- what no suite asks ----------------------------------------------------------------------------

COMMAND = """
[queues]
a = {{}}
[tasks.one]
call = "std.range"
with = {{ start = 0, stop = 1 }}
outputs = ["a"]
[tasks.sleep]
call = "std.shell"
with = {{ command = ["sh", "-c", "echo $$ > child; exec sleep 600"] }}
mode = "{mode}"
inputs = ["a"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_command_dies_with_its_run(mode: str, project: Make) -> None:
    """A shell waits at the pipe that closes, and kills its group: the kernel does not."""
    made = project({"tasks.toml": COMMAND.format(mode=mode)})
    running = made.start(env=environment())
    child = int(await_text(made.path / "child", running))
    [there] = existing([child])
    running.process.kill()
    running.process.communicate(timeout=LIMIT)
    left = still_there([there, *running.processes()], limit=20)
    kill_all(left)
    assert not left


KEEP = """
import json, os, time
from runner import task

@task
def numbers():
    yield from range(200)

@task
def same(item):
    if item == 60 and not os.path.exists("once"):
        open("once", "w").close()
        time.sleep(600)
    return item

@task
class keep:
    '''Its file is closed by the end of the process alone.'''
    def __init__(self):
        self.file = open(f"kept-{os.getpid()}", "w")
    def __call__(self, item):
        print(item, file=self.file)
"""

DURABLE = """
[run]
durable = true
[queues]
a = {}
b = {}
[tasks.numbers]
call = "numbers"
mode = "process"
outputs = ["a"]
[tasks.same]
call = "same"
mode = "process"
concurrency = 1
inputs = ["a"]
outputs = ["b"]
[tasks.keep]
call = "std.write_jsonl"
with = { path = "out.jsonl" }
inputs = ["b"]
"""


@pytest.mark.slow
def test_a_durable_run_goes_on_after_its_death(project: Make) -> None:
    made = project({"tasks.toml": DURABLE, "plugins/x.py": KEEP})
    running = made.start(env=environment())
    await_text(made.path / "once", running, may_be_empty=True)
    running.process.kill()
    running.process.communicate(timeout=LIMIT)
    assert not still_there(running.processes(), limit=20)
    outcome = made.start("--resume", env=environment()).finish(LIMIT)
    assert outcome.exit == 0, outcome
    assert "0 left" in outcome.err, outcome
    lines = (made.path / "out.jsonl").read_text().split()
    assert sorted({int(line) for line in lines}) == list(range(200))


STREAM = '[queues]\na = {}\n[tasks.numbers]\ncall = "numbers"\noutputs = ["a"]\n'
STREAM += '[tasks.keep]\ncall = "keep"\nmode = "process"\ninputs = ["a"]\n'


@pytest.mark.slow
def test_files_of_tasks_are_flushed_where_open_files_are_not_known(project: Make) -> None:
    made = project({"tasks.toml": STREAM, "plugins/x.py": KEEP})
    outcome = made.start(env=environment()).finish(LIMIT)
    assert outcome.exit == 0, outcome
    [kept] = made.path.glob("kept-*")
    assert [int(line) for line in kept.read_text().split()] == list(range(200))


FORKS = """
import os, time
from runner import task

@task
def leave():
    '''A copy goes on, has all of the worker's descriptors, and outlives it.'''
    if not os.fork():
        os.setsid()
        time.sleep(600)
    return 7
"""


@pytest.mark.slow
def test_the_end_of_a_worker_is_seen_although_a_copy_of_it_goes_on(project: Make) -> None:
    """Without a pidfd, a pipe that closes with the worker would be open in the copy."""
    made = project({"tasks.toml": '[tasks.leave]\ncall = "leave"\nmode = "process"\n', "plugins/x.py": FORKS})
    running = made.start(env=environment(), stdin=None, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert running.process.wait(LIMIT) == 0
    finally:
        kill_all(running.processes())


@pytest.mark.slow
def test_stop_ends_a_run(project: Make) -> None:
    made = project({"tasks.toml": COMMAND.format(mode="process")})
    running = made.start(env=environment())
    await_text(made.path / "child", running)
    stopped = made.start("--now", verb="stop", env=environment()).finish(LIMIT)
    assert stopped.exit == 128 + signal.SIGTERM, stopped  # as the run itself
    assert running.finish(LIMIT).exit == 128 + signal.SIGTERM


def await_text(path: Path, running: Running, *, may_be_empty: bool = False) -> str:
    """Return what a file says once it does."""
    until = time.monotonic() + LIMIT
    while not path.exists() or not (may_be_empty or path.read_text().endswith("\n")):
        if time.monotonic() > until or running.process.poll() is not None:
            running.process.kill()
            pytest.fail(f"{path} did not appear: {running.process.communicate()}")
        time.sleep(0.01)
    return path.read_text()
