"""Durable runs on a disk that is slow; and who has the descriptors of their ledger."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.test_durable import Durable, numbers, slow
from topology_runs import wait_for

#: A commit takes so long, and what it has on disk is noted behind it, in the file in which items note that they are
#: executed: its order is that of time.
PLUGIN = """
import os, sys, time
from pathlib import Path
from runner import Context, task
from runner.store.ledger_file import LedgerFile

write = LedgerFile.write_groups

def log(text):
    with open("order", "a") as file:
        file.write(text)

def slowly(self, groups, notes=None):
    time.sleep({seconds})
    write(self, groups, notes)
    log("".join(f"kept {{chunk.number}}\\n" for group in groups for chunk in group.chunks))

LedgerFile.write_groups = slowly

@task
def numbers(count: int):
    for number in range(count):
        yield number
        time.sleep({pause})

@task
def work(item, *, context: Context):
    log(f"executed {{context.item_id}}\\n")
    return item
"""
LINE = """
title = "D"
[run]
durable = true
grace = "2s"
[queues]
a = {{}}
b = {{}}
[tasks.numbers]
with = {{ count = {count} }}
outputs = "a"
mode = "{mode}"
[tasks.work]
inputs = "a"
outputs = "b"
workers = 2
mode = "{mode}"
[tasks.sink]
call = "std.write_lines"
with = {{ path = "out.txt" }}
inputs = "b"
"""


def on_slow_disk(project: Any, seconds: float, mode: str, count: int, pause: float = 0.0) -> Durable:
    files = {"tasks.toml": LINE.format(count=count, mode=mode)}
    return Durable(project, "", count, **files, **{"plugins/jobs.py": PLUGIN.format(seconds=seconds, pause=pause)})


def check_order(made: Durable) -> int:
    """What is executed was on disk before; return how many items were."""
    kept: set[str] = set()
    executed = 0
    for text in made.lines("order"):
        word, name = text.split()
        if word == "kept":
            kept.add(name)
        else:
            executed += 1
            assert name.partition(".")[0] in kept, f"{name} is granted, and not on disk"
    return executed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "mode", "count"),
    [(0.005, "process", 2000), slow(0.005, "thread", 2000), slow(1.0, "process", 300), slow(1.0, "thread", 300)],
)
def test_on_a_slow_disk_nothing_is_granted_that_is_not_on_it(
    project: Any, seconds: float, mode: str, count: int
) -> None:
    made = on_slow_disk(project, seconds, mode, count)
    outcome = made.go("run")
    assert outcome.exit == 0, outcome
    assert check_order(made) == count
    assert sorted(made.lines(), key=int) == numbers(count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "mode"), [(0.25, "process"), slow(0.25, "thread"), slow(1.0, "process"), slow(1.0, "thread")]
)
def test_on_a_very_slow_disk_a_stop_ends_within_its_grace_and_the_run_goes_on(
    project: Any, seconds: float, mode: str
) -> None:
    made = on_slow_disk(project, seconds, mode, 200, pause=0.005)
    outcome = made.go("run", lambda: (made.path / "order").exists() and made.size_of("order") > 100, signal.SIGINT)
    assert outcome.exit == 130, outcome
    assert "kept: runner resume" in outcome.err
    (path,) = made.path.glob(".runner/runs/*/record.json")
    record = json.loads(path.read_text())
    (stop,) = [moment["at"] for moment in record["moments"] if moment["text"] == "Ctrl-C"]
    assert record["seconds"] - stop < 2.0 + 10.0, "its grace, the commits under way, and what a busy machine takes"
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    check_order(made)
    assert sorted(made.lines(), key=int) == numbers(200)


@pytest.mark.slow
def test_a_file_is_put_in_its_place_only_when_the_end_of_its_items_is_on_disk(project: Any) -> None:
    """Else it has more than was saved in the next life, which cannot be told from what another program has added."""
    made = on_slow_disk(project, 0.3, "process", 30, pause=0.05)
    outcome = made.go("run", (made.path / "out.txt").exists)
    assert outcome.exit == -signal.SIGKILL, outcome
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert "30 read = 30 done + 0 dead + 0 dropped + 0 left" in outcome.err
    assert sorted(made.lines(), key=int) == numbers(30)


HOLDS = """
import os, time
from pathlib import Path
from runner import task

def files_of(name):
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    Path(f"{name}.new").write_text("\\n".join(found))
    os.rename(f"{name}.new", name)

@task
def numbers():
    yield 1

@task
def in_process(item):
    files_of("process")
    time.sleep(600)

@task
def in_thread(item):
    if not (pid := os.fork()):
        os.setsid()  # a daemon: it outlives the run
        for fd in range(3):
            os.close(fd)
        files_of("daemon")
        Path("pid").write_text(str(os.getpid()))
        time.sleep(600)
    time.sleep(600)
"""
HOLDING = """
[run]
durable = true
[queues]
a = { fanout = "copy" }
[tasks.numbers]
outputs = "a"
[tasks.in_process]
inputs = "a"
mode = "process"
[tasks.in_thread]
inputs = "a"
mode = "thread"
"""


@pytest.mark.slow
def test_neither_a_worker_nor_a_daemon_that_a_task_has_forked_has_the_lock_of_the_run(project: Any) -> None:
    made = project({"tasks.toml": HOLDING, "plugins/jobs.py": HOLDS})
    running = made.start("--progress", "none", "tasks.toml")
    wait_for(
        lambda: (made.path / "process").exists() and (made.path / "pid").exists() and (made.path / "pid").read_text()
    )
    daemon = psutil.Process(int((made.path / "pid").read_text()))
    try:
        (folder,) = (made.path / ".runner/runs").iterdir()
        held = (made.path / "process").read_text()
        assert str(folder / "cells") in held, "the page on which a worker shows what it executes"
        assert not {name for name in held.splitlines() if str(folder) in name} - {str(folder / "cells")}
        assert str(folder / "lock") not in (made.path / "daemon").read_text()
        assert any(str(folder / "lock") == str(fd.readlink()) for fd in descriptors(running.process.pid))
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(60)
        assert daemon.is_running(), "it has left the run"
        plugin = made.path / "plugins/jobs.py"
        plugin.write_text(plugin.read_text().replace("def in_", "def unused_") + REST)
        outcome = made.run("--progress", "none", verb="resume")
        assert outcome.exit == 0, outcome
        assert "1 read + 1 made = 2 done + 0 dead + 0 dropped + 0 left" in outcome.err
    finally:
        daemon.kill()
        running.finish()


REST = """
@task
def in_process(item):
    pass

@task
def in_thread(item):
    pass
"""


def descriptors(pid: int) -> list[Path]:
    return [path for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
