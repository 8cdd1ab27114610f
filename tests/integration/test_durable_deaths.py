"""An item that kills everything with it, runner as well: it is found, and given up at the third time."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from integration.test_durable import Durable, numbers, slow

from runner.transport.lease_page import CELLS_FILE
from runner.transport.progress_page import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

PLUGIN = """
import asyncio, os, signal, time
from pathlib import Path
from runner import Context, Inbox, Outbox, task

def log(what):
    with open("executed", "a") as file:
        file.write(f"{what}\\n")

def execute(item, poison):
    log(item)
    if item == poison:  # as the kernel does with a container whose memory is used up
        os.kill(int(os.environ["RUNNER_PID"]), signal.SIGKILL)
        os.killpg(0, signal.SIGKILL)
        time.sleep(60)
    return item

@task
def numbers(count: int):
    yield from range(count)

@task
def each(item, *, poison: int):
    time.sleep(0.002)
    return execute(item, poison)

@task
def quick(item, *, poison: int):
    return execute(item, poison)

@task
def many(items, *, poison: int):
    time.sleep(0.01)
    yield from [execute(item, poison) for item in items]

@task
async def side_by_side(item, *, poison: int):
    await asyncio.sleep(0.005)
    return execute(item, poison)

@task
def pulled(inbox: Inbox, outbox: Outbox, *, poison: int):
    for item in inbox:
        outbox.put(execute(item, poison))

@task
def waits(item):
    log(item)
    while not Path("go").exists():
        time.sleep(0.005)
    return item
"""

LINE = """
[queues]
a = {{}}
b = {{}}
[tasks.numbers]
with = {{ count = {count} }}
outputs = "a"
mode = "{mode}"
[tasks.{name}]
inputs = "a"
outputs = "b"
mode = "{mode}"
{more}
[tasks.sink]
call = "std.write_lines"
with = {{ path = "out.txt" }}
inputs = "b"
"""
POISON, COUNT = 50, 120


def deadly(project: Any, name: str, mode: str = "process", more: str = "", count: int = COUNT) -> Durable:
    text = LINE.format(name=name, mode=mode, count=count, more=more)
    return Durable(project, text, count, **{"plugins/jobs.py": PLUGIN})


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def poisonous(more: str) -> str:
    return f"with = {{ poison = {POISON} }}\n{more}"


@pytest.mark.parametrize(
    ("name", "mode", "more"),
    [
        slow("each", "process", "workers = 3"),
        slow("each", "thread", "workers = 3"),
        slow("each", "process", "workers = 2\nordered = true"),
        slow("quick", "process", ""),
        slow("quick", "thread", ""),
        slow("many", "process", "batch = 8\nworkers = 2"),
        slow("many", "thread", "batch = 8"),
        slow("pulled", "process", ""),
        slow("side_by_side", "process", "concurrency = 6"),
        slow("side_by_side", "thread", "concurrency = 6"),
    ],
)
def test_an_item_that_kills_everything_is_dead_after_the_third_time(
    project: Any, name: str, mode: str, more: str
) -> None:
    made = deadly(project, name, mode, poisonous(more))
    outcome = made.go("run")
    deaths = 0
    while outcome.exit == -signal.SIGKILL:
        deaths += 1
        assert deaths <= 3, "it does not end"
        outcome = made.go("resume")
    assert deaths == 3
    assert outcome.exit == 4, outcome
    assert f"{COUNT} read = {COUNT - 1} done + 1 dead + 0 dropped + 0 left" in outcome.err
    assert "3 workers died while they executed it, the last one died together with runner" in outcome.err
    good = [each for each in numbers(COUNT) if each != str(POISON)]
    assert sorted(made.lines(), key=int) == good
    if "ordered" in more:
        assert made.lines() == good
    assert Counter(made.lines("executed"))[str(POISON)] == 3
    (run,) = made.runs()
    (letter,) = map(json.loads, (made.path / ".runner/runs" / run / "dead.jsonl").read_text().splitlines()[1:])
    assert letter["preview"] == str(POISON)
    assert not (made.path / ".runner/runs" / run / "cells").exists()


def crashes(made: Durable) -> list[int]:
    """The crashes of all that is owed, where there are any."""
    (run,) = made.runs()
    with closing(sqlite3.connect(f"file:{made.path}/.runner/runs/{run}/ledger.db?mode=ro", uri=True)) as ledger:
        texts = [text for (text,) in ledger.execute("SELECT ranges FROM owed") if text is not None]
    return [each[3] for text in texts for each in json.loads(text) if each[3]]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", slow("thread")])
def test_an_item_that_is_executed_when_runner_is_killed_gets_one_crash(project: Any, mode: str) -> None:
    made = deadly(project, "waits", mode, count=3)
    made.go("run", lambda: has_begun(made))
    running = made.project.start("--progress", "none", verb="resume")
    wait_until(lambda: len(made.lines("executed")) == 2)
    assert crashes(made) == [1]
    (made.path / "go").touch()
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert "1 item was being executed when all processes of this run died: 1.0" in outcome.err
    assert made.lines() == numbers(3)


@pytest.mark.parametrize(
    ("mode", "second"),
    [
        slow("process", signal.SIGKILL),
        slow("process", signal.SIGINT),
        slow("thread", signal.SIGINT),
        slow("thread", signal.SIGKILL),
    ],
)
def test_a_run_that_is_stopped_blames_nothing(project: Any, mode: str, second: int) -> None:
    made = deadly(project, "waits", mode, count=3)
    running = made.project.start("--progress", "none", "tasks.toml")
    wait_until(lambda: has_begun(made))
    assert counts(made)
    os.kill(running.process.pid, signal.SIGINT)
    wait_until(lambda: not counts(made))
    os.kill(running.process.pid, second)
    outcome = running.finish()
    assert outcome.exit == (130 if second == signal.SIGINT else -second), outcome
    (made.path / "go").touch()
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert "being executed" not in outcome.err
    assert made.lines() == numbers(3)


def has_begun(made: Durable) -> bool:
    log = made.path / "executed"
    return log.exists() and len(log.read_text().splitlines()) == 1


def counts(made: Durable) -> bool:
    """Whether what the page shows counts."""
    (run,) = made.runs()
    return (made.path / ".runner/runs" / run / CELLS_FILE).read_bytes()[PAGE_BYTES + 8] == 1
