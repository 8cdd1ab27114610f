"""`ordered = true`: what leaves a task has the order of what came, whoever of its workers was quicker."""

from __future__ import annotations

from typing import Any

import pytest
from topology_runs import Finished, balance, keeper, run, task_file

pytestmark = pytest.mark.usefixtures("short_diffs")
ITEMS = 400

PLUGIN = """
import asyncio
import random
import time
from runner import Context, Inbox, Outbox, Retry, task


def pause(item):
    \"\"\"Seconds: mostly nothing, sometimes a little, and now and then longer than a slice.\"\"\"
    draw = random.Random(item)
    return draw.choice([0] * 30 + [0.001] * 8 + [0.004, 0.03])


@task
def plain(item):
    time.sleep(pause(item))
    return item


@task
def some(item):
    time.sleep(pause(item))
    if item % 3:
        yield item


@task
def none(item):
    time.sleep(pause(item))
    yield from ()


@task
def many(item):
    time.sleep(pause(item))
    for each in range(item % 4):
        yield item, each


@task
async def aplain(item):
    await asyncio.sleep(pause(item))
    return item


@task
async def amany(item):
    for each in range(item % 4):
        await asyncio.sleep(pause(item * 4 + each))
        yield item, each


@task
class Some:
    def __call__(self, item):
        time.sleep(pause(item))
        if item % 2:
            yield item


@task
def batched(items):
    time.sleep(pause(items[0]))
    yield from items
    yield -1


@task
def shaky(item, context: Context):
    time.sleep(pause(item))
    if item % 50 == 7 and context.attempt < 3:
        raise Retry(after=0.01)
    if item % 50 == 9:
        raise ValueError(item)
    return item


@task
def boxed(q: Inbox, out: Outbox):
    for item in q:
        out.put(item)


@task
def slow_now_and_then(item):
    \"\"\"Quick, so that chunks grow; then one that takes more than its slice.\"\"\"
    if item % 500 == 250:
        time.sleep(0.05)
    return item
"""

FILES = {"plugins/orders.py": PLUGIN}


def ordered(call: str, **table: Any) -> dict[str, Any]:
    return {"call": call, "inputs": "feed", "outputs": call, "ordered": True, "workers": 4, **table}


FED = list(range(ITEMS))
MANY = [(item, each) for item in FED for each in range(item % 4)]

EXPECTED = {
    "plain": FED,
    "some": [item for item in FED if item % 3],
    "none": [],
    "many": MANY,
    "aplain": FED,
    "amany": MANY,
    "Some": [item for item in FED if item % 2],
    "batched": [each for start in range(0, ITEMS, 8) for each in [*FED[start : start + 8], -1]],
    "shaky": [item for item in FED if item % 50 != 9],
    "aserial": FED,
}

TASKS = {
    "feed": {"call": "count", "args": [ITEMS], "outputs": "feed"},
    "plain": ordered("plain"),
    "some": ordered("some"),
    "none": ordered("none"),
    "many": ordered("many", workers=3),
    "aplain": ordered("aplain", workers=2, concurrency=20),
    "amany": ordered("amany", workers=3, concurrency=7),
    "aserial": ordered("aplain", concurrency=1, outputs="aserial"),
    "Some": ordered("Some", workers=2),
    "batched": ordered("batched", batch=8, workers=3),
    "shaky": ordered("shaky", attempts=3, backoff={"first": "5ms"}),
}


@pytest.fixture(scope="module", params=[pytest.param("thread", marks=pytest.mark.slow), "process"])
def ran(request, tmp_path_factory) -> Finished:
    sinks = {f"keep_{queue}": keeper(queue) for queue in EXPECTED}
    small = {"plain": {"size": 1}, "many": {"size": 5}, "aplain": {"size": 3}, "some": {"size": 20}}
    toml = task_file({**TASKS, **sinks}, {"feed": {"fanout": "copy"}, **small}, mode=request.param)
    return run(tmp_path_factory.mktemp(request.param), toml, FILES, timeout=100)


def test_only_what_failed_is_missing(ran):
    assert ran.outcome.exit == 4, ran.outcome
    assert " + 8 dead + 0 dropped + 0 left   (32 repeated)" in balance(ran.outcome), ran.outcome


@pytest.mark.parametrize("queue", EXPECTED)
def test_what_leaves_has_the_order_of_what_came(ran, queue):
    assert ran.kept(queue) == EXPECTED[queue]


@pytest.mark.parametrize(
    "modes", ["mixed", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("thread", "process"))]
)
def test_order_holds_through_a_chain(tmp_path, modes):
    """Between ordered tasks with several workers stand tasks with one, which say nothing of order."""
    places = {
        "quick": {"call": "slow_now_and_then"},
        "ordered": {"call": "many", "workers": 3, "ordered": True},
        "boxed": {},
        "last": {"call": "same", "workers": 2, "ordered": True},
    }
    tasks: dict[str, dict[str, Any]] = {"feed": {"call": "count", "args": [1000], "outputs": "q0"}}
    for number, (name, table) in enumerate(places.items()):
        tasks[name] = {**table, "inputs": f"q{number}", "outputs": f"q{number + 1}"}
    tasks["keep"] = keeper(f"q{len(places)}")
    for number, table in enumerate(tasks.values()):
        table["mode"] = modes if modes != "mixed" else ("thread", "process")[number % 2]
    finished = run(tmp_path, task_file(tasks), FILES).ok()
    assert finished.kept(f"q{len(places)}") == [(item, each) for item in range(1000) for each in range(item % 4)]


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_an_only_worker_takes_its_items_in_the_order_of_their_queue(tmp_path, mode):
    tasks = {
        "feed": {"call": "count", "args": [4_000], "outputs": "feed"},
        "slow_now_and_then": {"inputs": "feed", "outputs": "out"},
        "keep": keeper("out"),
    }
    finished = run(tmp_path, task_file(tasks, mode=mode), FILES).ok()
    assert finished.kept("out") == list(range(4_000))
