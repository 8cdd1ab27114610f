"""Queues that drop items, and other orders, with real workers: what they wrote is the oracle, not what runner counted."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

WORK = """
import os, time
from pathlib import Path
from runner import Context, task

def note(name, text):
    file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text}\\n".encode())
    os.close(file)

@task
def numbers(count: int):
    yield from range(count)

@task
def paused(count: int):
    for number in range(count):
        if number % 50 == 0:
            time.sleep(0.005)
        yield number

@task
def ranked(count: int):
    for number in range(count):
        yield number * 7919 % count, {"data": f"x{number}" * 3}

@task
def slow(item, *, seconds: float = 0.0005, kills: int = 0):
    note("given", item)
    time.sleep(seconds)
    if kills and not Path("killed").exists():
        Path("killed").touch()
        os._exit(9)
    return item

@task
async def slow_async(item):
    import asyncio

    note("given", item)
    await asyncio.sleep(0.001)
    return item

@task
def all_of(items: list):
    time.sleep(0.002)
    note("batches", len(items))
    yield from items
"""

FILE = """
title = "Drops"

[queues]
a = {{ {queue} }}
b = {{}}

[tasks.{source}]
args = [{count}]
mode = "{mode}"
outputs = "a"

[tasks.work]
call = "{call}"
{more}
inputs = "a"
outputs = "b"

[tasks.keep]
call = "std.write_jsonl"
with = {{ path = "out.jsonl" }}
inputs = "b"
"""


def make(project: Any, queue: str, call: str = "slow", more: str = "", mode: str = "process", **options: Any) -> Any:
    given = {"source": "numbers", "count": 20_000, **options}
    text = FILE.format(queue=queue, call=call, more=more, mode=mode, **given)
    return project({"tasks.toml": text, "plugins/work.py": WORK})


def written(made: Any) -> list[Any]:
    return [json.loads(line) for line in (made.path / "out.jsonl").read_text().splitlines()]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize("full", ["drop-old", "drop-new"])
@pytest.mark.parametrize(
    ("call", "more"),
    [
        ("slow", ""),
        slow("slow", "workers = 3"),
        slow("slow", "with = { kills = 1 }"),
        slow("slow_async", ""),
        slow("all_of", "batch = 5"),
    ],
)
def test_a_full_queue_drops_and_nothing_else_is_lost(project: Any, mode: str, full: str, call: str, more: str) -> None:
    made = make(project, f'size = 10, full = "{full}"', call, more, mode)
    outcome = made.run("--json", "--progress", "none")
    assert outcome.exit == 0, outcome
    balance = json.loads(outcome.out)["balance"]
    found = written(made)
    assert len(found) == len(set(found)) == balance["done"]
    assert balance["read"] == 20_000 == balance["done"] + balance["dropped"]
    assert balance["dropped"] > 0
    which = "what has waited longest" if full == "drop-old" else "what comes in"
    assert outcome.err.count(f"queue `a` is full, and {which} is dropped and counted, as its `full` says") == 1
    assert (max(found) == 19_999) if full == "drop-old" else (min(found) == 0)
    if "kills" in more:
        given = (made.path / "given").read_text().split()
        assert set(map(int, given)) == set(found), "what a worker has had is not dropped"
        assert balance["repeated"] >= 1
    record = json.loads(made.run("last", "--json", verb="report").out)
    (queue,) = [each for each in record["queues"] if each["name"] == "a"]
    assert (queue["put"], queue["dropped"]) == (20_000, balance["dropped"])


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_source_that_pauses_may_always_go_on(project: Any, mode: str) -> None:
    """It is given leave at each pause, and no bound counts what it has; the number that it is told must not grow so."""
    made = make(project, 'size = 10, full = "drop-old"', mode=mode, source="paused", count=2_000)
    outcome = made.run("--json", "--progress", "none")
    assert outcome.exit == 0, outcome
    balance = json.loads(outcome.out)["balance"]
    assert balance["read"] == 2_000 == balance["done"] + balance["dropped"]


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("order", ["priority", "lifo"])
def test_what_waits_leaves_in_its_order(project: Any, order: str, mode: str) -> None:
    made = make(
        project, f'order = "{order}"', "slow", f'mode = "{mode}"\nafter = "ranked"', mode, source="ranked", count=300
    )
    outcome = made.run("--progress", "none")
    assert outcome.exit == 0, outcome
    found = [rank for rank, _ in written(made)]
    came = [number * 7919 % 300 for number in range(300)]
    assert found == (sorted(came) if order == "priority" else came[::-1])


@pytest.mark.slow
def test_what_died_is_next_again(project: Any) -> None:
    more = 'after = "ranked"\nwith = { kills = 1 }'
    made = make(project, 'order = "priority"', more=more, source="ranked", count=50)
    outcome = made.run("--progress", "none")
    assert outcome.exit == 0, outcome
    assert [rank for rank, _ in written(made)] == list(range(50))


def test_an_item_without_a_priority_is_an_error_of_its_writer(project: Any) -> None:
    outcome = make(project, 'order = "priority"', count=5).run("--progress", "none")
    assert outcome.exit == 1, outcome
    assert re.search('TypeError: an? int has no `priority`: a queue with `order = "priority"` takes items', outcome.err)


@pytest.mark.slow
def test_a_durable_run_keeps_the_order_over_its_lives(project: Any) -> None:
    more = 'after = "ranked"\nwith = { seconds = 0.01 }'
    made = make(project, 'order = "priority"', more=more, source="ranked", count=100)
    running = made.start("--durable", "--progress", "none")
    while running.process.poll() is None and not (made.path / "given").exists():
        pass
    running.process.kill()
    running.finish()
    outcome = made.run("--progress", "none", verb="resume")
    assert outcome.exit == 0, outcome
    assert [rank for rank, _ in written(made)] == list(range(100))
