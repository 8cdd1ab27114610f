"""Queues with lanes, with real workers: what the functions wrote down, line by line, is the oracle."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import pytest
from integration.test_durable import Durable

PLUGIN = """
import asyncio, os, time
from pathlib import Path
from runner import Context, Inbox, Outbox, Reject, Retry, task

def note(text, item):
    file = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text} {os.getpid()} {item['customer']} {item['number']}\\n".encode())
    os.close(file)

@task
def orders(count: int):
    for number in range(count):
        yield {"customer": f"c{number % 9}", "number": number}

def fate(item, kills):
    number = item["number"]
    marker = Path(f"met{number}")
    if number % 40 == 7:
        note("end", item)
        raise Reject("never")
    if number % 20 == 3 and not marker.exists():
        marker.touch()
        note("again", item)
        raise Retry(after=0.005)
    if kills and number % 60 == 11 and not marker.exists():
        marker.touch()
        note("dies", item)
        os._exit(9)

@task
def serve(item, *, seconds: float = 0.0002, kills: bool = False):
    note("begin", item)
    time.sleep(seconds)
    fate(item, kills)
    note("end", item)
    return item

@task
async def serve_async(item, *, kills: bool = False):
    note("begin", item)
    await asyncio.sleep(0.002)
    fate(item, kills)
    note("end", item)
    return item

@task
def serve_many(items: list, *, kills: bool = False):
    for item in items:
        note("begin", item)
        note("end", item)
    time.sleep(0.001)
    if kills and items[0]["number"] % 7 == 3 and not Path(f"met{items[0]['number']}").exists():
        Path(f"met{items[0]['number']}").touch()
        note("dies", items[0])
        os._exit(9)
    yield from items

@task
def pull(inbox: Inbox, outbox: Outbox, *, kills: bool = False):
    for item in inbox:
        note("begin", item)
        fate(item, kills)
        note("end", item)
        outbox.put(item)
"""
FILE = """
title = "Lanes"
[queues]
a = {{ lane = "customer" }}
b = {{}}
[tasks.orders]
args = [{count}]
mode = "{mode}"
outputs = "a"
[tasks.{call}]
{more}
mode = "{mode}"
workers = 3
attempts = 3
backoff = {{ first = "1ms" }}
inputs = "a"
outputs = "b"
[tasks.keep]
call = "std.write_jsonl"
with = {{ path = "out.jsonl" }}
inputs = "b"
"""


def check_log(lines: list[str], count: int) -> None:
    """Items of one customer begin in their order, each after the end of all before it, and one at a time.

    What a dead worker had done, and not said, it does once more.
    """
    open_items: dict[str, tuple[str, int]] = {}
    ended: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        what, process, customer, text = line.split()
        number = int(text)
        if what == "life":
            open_items.clear()
        elif what == "dies":
            open_items = {name: each for name, each in open_items.items() if each[0] != process}
        elif what == "begin":
            assert customer not in open_items, f"{customer}: {number} beside {open_items[customer]}"
            before = {each for each in range(number) if f"c{each % 9}" == customer}
            assert before <= ended[customer], f"{customer}: {number} before {sorted(before - ended[customer])[:3]}"
            open_items[customer] = (process, number)
        else:
            assert open_items.pop(customer) == (process, number)
            if what == "end":
                ended[customer].add(number)
    assert set().union(*ended.values()) == set(range(count))
    assert not open_items


@pytest.mark.parametrize(
    ("call", "mode", "more"),
    [
        ("serve", "process", "with = { kills = true }"),
        ("serve", "thread", ""),
        pytest.param("serve_async", "process", "with = { kills = true }", marks=pytest.mark.slow),
        pytest.param("serve_async", "thread", "concurrency = 4", marks=pytest.mark.slow),
        pytest.param("serve_many", "process", "batch = { items = 8, wait = '5ms' }\nwith = { kills = true }"),
        pytest.param("serve_many", "thread", "batch = 8", marks=pytest.mark.slow),
        pytest.param("pull", "process", "with = { kills = true }", marks=pytest.mark.slow),
    ],
)
def test_one_customer_is_served_in_order_and_by_one(project: Any, call: str, mode: str, more: str) -> None:
    """Under retries, dead items and killed workers."""
    count = 360
    made = project({"tasks.toml": FILE.format(count=count, mode=mode, call=call, more=more), "plugins/shop.py": PLUGIN})
    outcome = made.run("tasks.toml")
    dead = 0 if call == "serve_many" else 9
    assert outcome.exit == (4 if dead else 0), outcome.err
    check_log((made.path / "log").read_text().splitlines(), count)
    out = sorted(json.loads(line)["number"] for line in (made.path / "out.jsonl").read_text().splitlines())
    assert out == [number for number in range(count) if not dead or number % 40 != 7]


@pytest.mark.slow
def test_a_durable_run_keeps_its_lanes_when_it_goes_on_with_other_workers(project: Any) -> None:
    count = 400
    text = FILE.format(count=count, mode="process", call="serve", more="with = { seconds = 0.004 }")
    run = Durable(project, text.replace('title = "Lanes"', ""), count, **{"plugins/shop.py": PLUGIN})
    log = run.path / "log"
    verb = "run"
    for size in (1000, 4000):
        run.go(verb, lambda size=size: log.exists() and log.stat().st_size > size)
        verb = "resume"
        with log.open("a") as file:
            file.write("life 0 c 0\n")
        path = run.path / "tasks.toml"
        path.write_text(re.sub("workers = \\d+", f"workers = {2 if size == 1000 else 5}", path.read_text()))
    assert run.kills == 2
    outcome = run.go("resume")
    assert outcome.exit == 4, outcome.err
    check_log(log.read_text().splitlines(), count)


@pytest.mark.slow
def test_a_durable_run_does_not_go_on_with_other_lanes(project: Any) -> None:
    text = FILE.format(count=2000, mode="process", call="serve", more="with = { seconds = 0.004 }")
    run = Durable(project, text.replace('title = "Lanes"', ""), 2000, **{"plugins/shop.py": PLUGIN})
    run.go("run", lambda: (run.path / "log").exists())
    path = run.path / "tasks.toml"
    path.write_text(path.read_text().replace('lane = "customer"', 'lane = "number"'))
    outcome = run.go("resume")
    assert outcome.exit == 3
    assert re.search(r"queue `a`, which holds [\d,]+ items, had `lane = \"customer\"` when they came", outcome.err)


@pytest.mark.slow
def test_dead_items_are_given_again_in_their_lanes(project: Any) -> None:
    text = FILE.format(count=200, mode="process", call="serve", more="")
    made = project({"tasks.toml": text, "plugins/shop.py": PLUGIN})
    assert made.run("tasks.toml").exit == 4
    (letters,) = made.path.glob(".runner/runs/*/dead.jsonl")
    kept = [json.loads(line) for line in letters.read_text().splitlines()[1:]]
    assert {letter["lane"] for letter in kept} == {"customer"}
    assert {letter["bucket"].bit_length() for letter in kept} == {8}
    assert len({letter["bucket"] for letter in kept}) > 1
    (made.path / "log").unlink()
    shop = (made.path / "plugins/shop.py").read_text().replace("number % 40 == 7", "False")
    (made.path / "plugins/shop.py").write_text(shop)
    outcome = made.run("retry", verb="dead")
    assert outcome.exit == 0, outcome.err
    assert "5 done" in outcome.err
