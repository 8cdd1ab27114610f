"""No loop, frame or hand-over of a worker keeps an item, a result or a batch alive while the next one is made.

With large objects one step too long is a second array beside the first, so that malloc gives memory back and faults it
in again for each item. Processes count the objects that are alive when the next is made; among threads, which pass the
objects themselves, the next one is not made until the one before has died; and page faults are counted with arrays.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from topology_runs import run, task_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("short_diffs")

FORMS = '''
import multiprocessing
import os
import resource
import threading
import time
import weakref

import numpy as np
from runner import Inbox, Outbox, ShutDown, To, task

ALIVE = weakref.WeakSet()
MOST = [-1]


class Large:
    """An object that notes how many others are alive in its process when it is made, or unpickled."""

    def __init__(self):
        if len(ALIVE) > MOST[0]:
            MOST[0] = len(ALIVE)
            with open(f"{multiprocessing.current_process().name}.most", "w") as file:
                file.write(str(MOST[0]))
        ALIVE.add(self)

    def __reduce__(self):
        return Large, ()


class Followed:
    """An object whose death is an event."""




@task
def waits(count, name):
    for _ in range(count):
        gone = threading.Event()
        yield made(gone)
        if not gone.wait(30):
            open(f"{name}.lives", "w").close()
            return


def made(gone):
    item = Followed()
    weakref.finalize(item, gone.set)
    return item


# -- sources


@task
def s_generator(count):
    for _ in range(count):
        yield Large()


@task
def s_iterator(count):
    return map(lambda _: Large(), range(count))


@task
def s_ports(count):
    for _ in range(count):
        yield To("default", Large())


@task
def s_outbox(count, outbox: Outbox):
    for _ in range(count):
        outbox.put(Large())


@task
def s_both(count, outbox: Outbox):
    for _ in range(count):
        yield Large()


@task
async def s_async(count):
    for _ in range(count):
        yield Large()


@task
class s_class:
    def __init__(self, count):
        self.count = count

    def __call__(self):
        for _ in range(self.count):
            yield Large()


# -- what makes something of each item: a new object, or the one that it was given where that is followed


def new(item):
    return item if isinstance(item, Followed) else Large()


@task
def m_call(item):
    return new(item)


@task
def m_generator(item):
    yield new(item)
    if isinstance(item, Large):
        yield Large()
        yield Large()


@task
def m_batch(items):
    return new(items[0])


@task
def m_batches(items):
    for item in items:
        yield new(item)
        del item


@task
async def m_async(item):
    return new(item)


@task
def m_loop(inbox: Inbox, outbox: Outbox):
    for item in inbox:
        outbox.put(new(item))
        del item


@task
def m_get(inbox: Inbox, outbox: Outbox):
    while True:
        item = inbox.get()
        outbox.put(new(item))
        del item


@task
def m_drain(inbox: Inbox):
    for item in inbox:
        yield new(item)
        del item


@task
class m_class:
    def __call__(self, item):
        return new(item)


@task
def m_fails(item):
    mine = Large()
    raise ValueError("no")


@task
def m_batch_fails(items):
    mine = Large()
    raise ValueError("no")


# -- sinks


@task
def k_call(item):
    assert item is not None


@task
def k_generator(item):
    yield 1
    if isinstance(item, Large):
        yield Large()
        yield Large()


@task
def k_batch(items):
    assert items


@task
async def k_async(item):
    assert item is not None


@task
def k_loop(inbox: Inbox):
    for item in inbox:
        del item


# -- page faults


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def note_faults(name, since, count):
    with open(f"{name}.faults", "w") as file:
        file.write(str((faults() - since) / count))


@task
def arrays(count, warm):
    for number in range(count + warm):
        if number == warm:
            since = faults()
        yield np.full(SIZE, number)
    note_faults("arrays", since, count)


@task
class doubled:
    """Gives a new array for each."""

    def __init__(self, count, warm):
        self.count, self.warm, self.seen = count, warm, 0

    def __call__(self, array):
        if self.seen == self.warm:
            self.since = faults()
        self.seen += 1
        return array + array

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        note_faults("doubled", self.since, self.count)


@task
def total(array):
    assert array[0] == array[-1]


SIZE = 1 << 17  # of eight bytes
'''

#: How many objects may be alive when the next is made: what the function itself was given, or its batch.
SOURCES = dict.fromkeys(["s_generator", "s_iterator", "s_ports", "s_outbox", "s_both", "s_async", "s_class"], 0)
MIDDLES = {
    "m_call": 1,
    "m_generator": 1,
    "m_batch": 4,
    "m_batches": 4,
    "m_async": 1,
    "m_loop": 1,
    "m_get": 1,
    "m_drain": 1,
    "m_class": 1,
    "m_fails": 2,  # its item is decoded once more, to be shown
    "m_batch_fails": 4,
}
SINKS = {"k_call": 0, "k_generator": 1, "k_batch": 3, "k_async": 0, "k_loop": 0}
COUNT = 24


def table(name: str, batch: int, **more: Any) -> dict[str, Any]:
    """The table of a task of this form."""
    own: dict[str, Any] = {"call": f"forms.{name}", **more}
    if "_batch" in name:
        own["batch"] = batch
    if name.endswith("_async") and not name.startswith("s_"):
        own["concurrency"] = 1
    return {**own, "on_error": "skip"} if "fails" in name else own


def test_objects_alive_when_the_next_is_made(tmp_path: Path) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "feed": {"call": "forms.s_generator", "with": {"count": COUNT}, "outputs": "feed"}
    }
    for name in SOURCES:
        tasks[name] = table(name, 4, outputs=f"of_{name}", **{"with": {"count": COUNT}})
    for name in MIDDLES:
        tasks[name] = table(name, 4, inputs="feed", outputs=f"of_{name}")
    for name in SINKS:
        tasks[name] = table(name, 4, inputs="feed")
    tasks["rest"] = {"call": "forms.k_call", "inputs": ["others", *(f"of_{name}" for name in (*SOURCES, *MIDDLES))]}
    tasks["s_ports"]["outputs"] = {"default": "of_s_ports", "other": "others"}
    ended = run(
        tmp_path,
        task_file(tasks, {"feed": {"fanout": "copy"}}, mode="process"),
        {"plugins/forms.py": FORMS},
        timeout=100,
    )
    assert ended.outcome.exit == 0, ended.outcome
    found = {file.stem: int(file.read_text()) for file in tmp_path.glob("*.most")}
    assert found == {**SOURCES, **MIDDLES, **SINKS, "feed": 0, "rest": 0}


@pytest.mark.slow
def test_a_thread_lets_go_of_an_object_though_none_follows(tmp_path: Path) -> None:
    tasks: dict[str, dict[str, Any]] = {}
    for middle, sink in product((name for name in MIDDLES if "fails" not in name), SINKS):
        line = f"{middle}_{sink}"
        tasks |= {
            f"source_{line}": {"call": "forms.waits", "with": {"count": 3, "name": line}, "outputs": f"a_{line}"},
            f"middle_{line}": table(middle, 1, inputs=f"a_{line}", outputs=f"b_{line}"),
            f"sink_{line}": table(sink, 1, inputs=f"b_{line}"),
        }
    run(tmp_path, task_file(tasks, mode="thread"), {"plugins/forms.py": FORMS}, timeout=100).ok()
    assert not [file.stem for file in tmp_path.glob("*.lives")]


@pytest.mark.slow
def test_page_faults_of_new_arrays(tmp_path: Path) -> None:
    """A MiB has 256 pages: they are faulted in once, not for each array."""
    given = {"count": 400, "warm": 100}
    tasks = {
        "arrays": {"call": "forms.arrays", "with": given, "outputs": "a"},
        "doubled": {"call": "forms.doubled", "with": given, "inputs": "a", "outputs": "b"},
        "total": {"call": "forms.total", "inputs": "b"},
    }
    toml = task_file(tasks, {"a": {"size": 4}, "b": {"size": 4}}, mode="process")
    run(tmp_path, toml, {"plugins/forms.py": FORMS}, timeout=100).ok()
    counted = {name: float((tmp_path / f"{name}.faults").read_text()) for name in ("arrays", "doubled")}
    assert max(counted.values()) < 24, counted
