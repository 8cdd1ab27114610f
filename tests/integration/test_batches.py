"""Batches of more items than a queue without `size` holds otherwise, whatever the queue is read and written by."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

WORK = """
from runner import task

@task
def numbers(count: int):
    yield from range(count)

@task
def same(number):
    return number

@task
def size_of(batch: list):
    return len(batch)

@task
async def size_of_async(batch: list):
    return len(batch)
"""
FILE = """
[queues]
q = {{ {queue} }}
sizes = {{}}
[tasks.numbers]
args = [{count}]
outputs = "q"
mode = "{mode}"
[tasks.add]
call = "{call}"
inputs = "q"
outputs = "sizes"
batch = {batch}
mode = "{mode}"
workers = {workers}
[tasks.keep]
call = "std.write_lines"
with = {{ path = "sizes.txt" }}
inputs = "sizes"
"""


def sizes(project: Any, **options: Any) -> Counter[int]:
    given = {"queue": "", "count": 12_000, "mode": "process", "call": "size_of", "batch": 5000, "workers": 1, **options}
    made = project({"tasks.toml": FILE.format(**given), "plugins/work.py": WORK})
    outcome = made.run("--progress", "none")
    assert outcome.exit == 0, outcome
    return Counter(map(int, (made.path / "sizes.txt").read_text().split()))


@pytest.mark.parametrize(
    ("mode", "call", "queue"),
    [
        ("process", "size_of", ""),
        ("thread", "size_of", ""),
        pytest.param("process", "size_of_async", "", marks=pytest.mark.slow),
        pytest.param("process", "size_of", 'fanout = "copy"', marks=pytest.mark.slow),
        pytest.param("thread", "size_of", 'order = "lifo"', marks=pytest.mark.slow),
    ],
)
def test_a_queue_without_a_size_holds_a_batch(project: Any, mode: str, call: str, queue: str) -> None:
    assert sizes(project, mode=mode, call=call, queue=queue) == {5000: 2, 2000: 1}


def test_a_batch_in_bytes_too_has_no_more_items(project: Any) -> None:
    assert sizes(project, batch='{ items = 3000, bytes = "1GB" }', count=7000) == {3000: 2, 1000: 1}


def test_a_size_of_the_file_holds(project: Any) -> None:
    found = sizes(project, queue="size = 1000", count=10_000)
    assert sum(size * times for size, times in found.items()) == 10_000
    assert max(found) < 5000, "the queue holds no more, but for what was under way"


@pytest.mark.slow
def test_two_workers_get_whole_batches(project: Any) -> None:
    found = sizes(project, workers=2, count=40_000)
    assert found == {5000: 8}
