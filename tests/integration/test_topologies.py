"""Every topology of SPEC 2, with real workers: what comes out is compared, item by item, with a plain loop."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from topology_runs import USES_KIT, Finished, balance, keeper, run, task_file

TOPO = (
    USES_KIT
    + '''
import os
from runner import Inbox, Outbox, To, task


@task
def tag(item, mark):
    return f"{item}{mark}"


@task
def pair(item, mark):
    return item, mark


@task
def nothing():
    yield from ()


@task
def expand(item):
    yield from range(item)


@task
def collatz(item):
    """Goes round until it is 1; what arrives at 1 leaves."""
    start, number, steps = item
    if number == 1:
        return To("arrived", (start, steps))
    return To("again", (start, number // 2 if number % 2 == 0 else 3 * number + 1, steps + 1))


@task
def starts(stop):
    for start in range(1, stop):
        yield start, start, 0


@task
def tree(item, *, most):
    """Each number leaves, and its two children come in."""
    yield item
    for child in (2 * item + 1, 2 * item + 2):
        if child < most:
            yield To("children", child)


@task
def down(item):
    """One of a ring: counts down, and ends at nought."""
    if item:
        yield item - 1


@task
def outer(item):
    """Two cycles that share a task: 2 and 3 go round the short one, all others the long one."""
    if item <= 0:
        return To("out", item)
    return To("short" if item % 4 in {2, 3} else "long", item - 1)


@task
class Sum:
    """Aggregates; its one line is written at the end."""

    def __init__(self, *, to):
        self.to, self.count, self.sum = to, 0, 0

    def __enter__(self):
        return self

    def __call__(self, item):
        self.count += 1
        self.sum += item

    def __exit__(self, *error):
        note(self.to, f"{self.count} {self.sum}")


@task
def total(q: Inbox, out: Outbox):
    count = sum_ = 0
    for item in q:
        count += 1
        sum_ += item
    out.put((count, sum_))


@task
def total_result(q: Inbox):
    return sum(1 for _ in q)


@task
def say(word, *, to="said.txt"):
    note(to, word)


@task
def say_items(item, *, to="said.txt"):
    note(to, item)


@task
def say_and_wait(word, *, file):
    note("said.txt", word)
    until(file)
    note("said.txt", f"{word} ends")


@task
def touch(file):
    note(file, "")


@task
def fail(word):
    note("said.txt", word)
    raise ValueError(word)


@task
def one_then_fail():
    yield 1
    raise ValueError("no more")
'''
)

FILES = {"plugins/topo.py": TOPO}


def source(stop: int, queue: str | list[str], **table: Any) -> dict[str, Any]:
    return {"call": "count", "args": [stop], "outputs": queue, **table}


def step(call: str, inputs: str | list[str], outputs: Any, *args: Any, **table: Any) -> dict[str, Any]:
    return {"call": call, "args": list(args), "inputs": inputs, "outputs": outputs, **table}


# --- one run holds most of them -------------------------------------------------------------------------------------

MIXES = {
    "threads": ["thread"],
    "processes": ["process"],
    "alternating": ["thread", "process"],
    "two and two": ["process", "process", "thread", "thread"],
}
#: In the quick ones each mode is next to itself and next to the other.
MIXED = [name if name in {"threads", "alternating"} else pytest.param(name, marks=pytest.mark.slow) for name in MIXES]


def chains() -> dict[str, dict[str, Any]]:
    """Chains of 1 to 8 tasks; the last one keeps."""
    tasks: dict[str, dict[str, Any]] = {"chain1": {"call": "say", "args": ["alone"], "with": {"to": "alone.txt"}}}
    for length in range(2, 9):
        tasks[f"chain{length}"] = source(40, f"c{length}_1")
        for place in range(1, length - 1):
            name = f"chain{length}_{place}"
            tasks[name] = step("add", f"c{length}_{place}", f"c{length}_{place + 1}", 1000)
        tasks[f"chain{length}_end"] = keeper(f"c{length}_{length - 1}")
        del tasks[f"chain{length}_end"]["mode"]
    return tasks


def webs() -> dict[str, dict[str, Any]]:
    """Everything else that ends well."""
    return {
        # several writers, several readers
        "write1": source(50, "shared", workers=2),
        "write2": {"call": "count", "args": [200], "with": {"start": 100}, "outputs": "shared"},
        "write3": {"call": "expand", "args": [30], "outputs": "shared"},
        "read": step("pair", "shared", "read", "read", workers=3),
        "keep_read": keeper("read"),
        # one task reads several queues
        "left": source(20, "left"),
        "right": source(30, "right"),
        "none": {"call": "nothing", "outputs": "none"},
        "join": step("tag", ["left", "right", "none"], "joined", "j"),
        "keep_joined": keeper("joined"),
        # two tasks share a queue, two others have a copy each
        "deal": source(100, "deal"),
        "deal1": step("pair", "deal", "dealt", 1),
        "deal2": step("pair", "deal", "dealt", 2, workers=2),
        "keep_dealt": keeper("dealt"),
        "cast": source(60, "cast"),
        "cast1": step("pair", "cast", "cast1", "one", workers=2),
        "cast2": step("pair", "cast", "cast2", "two"),
        "keep_cast1": keeper("cast1"),
        "keep_cast2": keeper("cast2"),
        # outputs to several queues, by a list and by ports
        "spread": source(45, ["spread1", "spread2", "spread3"]),
        "keep_spread1": keeper("spread1"),
        "keep_spread2": keeper("spread2"),
        "keep_spread3": keeper("spread3"),
        # a diamond, and one in it
        "top": source(25, "top"),
        "west": step("pair", "top", "sides", "west"),
        "east": step("pair", "top", ["sides", "east"], "east"),
        "far": step("pair", "east", "sides", "far"),
        "bottom": step("pair", "sides", "bottom", "bottom", workers=2),
        "keep_bottom": keeper("bottom"),
        # queues of size 1 all the way, and slots that are many more than that
        "tight": source(30, "tight1", workers=2),
        "tighten": step("tag", "tight1", "tight2", "t", workers=3),
        "tighter": step("tag", "tight2", "tight3", "u"),
        "keep_tight3": keeper("tight3"),
        # nothing at all
        "empty": {"call": "nothing", "outputs": "empty1"},
        "emptier": step("tag", "empty1", "empty2", "never", workers=2),
        "keep_empty2": keeper("empty2"),
        "sum_empty": {"call": "total", "inputs": "empty3", "outputs": "empty_sum"},
        "empty3": {"call": "nothing", "outputs": "empty3"},
        "keep_empty_sum": keeper("empty_sum"),
        # a source that fills a queue with one item
        "one": {"call": "operator:index", "args": [100_000], "outputs": "one"},
        "expand": {"call": "expand", "inputs": "one", "outputs": ["many", "many_more"]},
        "sum": {"call": "Sum", "inputs": "many", "with": {"to": "sum.txt"}},
        "total": {"call": "total", "inputs": "many_more", "outputs": "total"},
        "keep_total": keeper("total"),
    }


WEB_QUEUES = {
    "deal": {"fanout": "share"},
    "cast": {"fanout": "copy"},
    "top": {"fanout": "copy"},
    "tight1": {"size": 1},
    "tight2": {"size": 1},
    "tight3": {"size": 1},
}


@pytest.fixture(scope="module", params=MIXED)
def web(request, tmp_path_factory) -> Finished:
    tasks = {**chains(), **webs()}
    modes = MIXES[request.param]
    for number, table in enumerate(tasks.values()):
        table.setdefault("mode", modes[number % len(modes)])
    return run(tmp_path_factory.mktemp("web"), task_file(tasks, WEB_QUEUES), FILES, timeout=100).ok()


def test_independent_tasks_all_run(web):
    assert web.lines("alone.txt") == ["alone"]


@pytest.mark.parametrize("length", range(2, 9))
def test_chain(web, length):
    assert Counter(web.kept(f"c{length}_{length - 1}")) == Counter(each + 1000 * (length - 2) for each in range(40))


def test_several_writers_and_readers(web):
    written = [*range(50), *range(50), *range(100, 200), *range(30)]
    assert Counter(web.kept("read")) == Counter((each, "read") for each in written)


def test_one_task_reads_several_queues(web):
    assert Counter(web.kept("joined")) == Counter(f"{each}j" for each in [*range(20), *range(30)])


def test_shared_items_go_to_one_of_the_readers(web):
    assert Counter(item for item, _ in web.kept("dealt")) == Counter(range(100))


@pytest.mark.parametrize(("queue", "mark"), [("cast1", "one"), ("cast2", "two")])
def test_copied_items_go_to_all_readers(web, queue, mark):
    assert Counter(web.kept(queue)) == Counter((each, mark) for each in range(60))


@pytest.mark.parametrize("queue", ["spread1", "spread2", "spread3"])
def test_outputs_to_several_queues(web, queue):
    assert Counter(web.kept(queue)) == Counter(range(45))


def test_diamonds(web):
    sides = [item for each in range(25) for item in ((each, "west"), (each, "east"), ((each, "east"), "far"))]
    assert Counter(web.kept("bottom")) == Counter((item, "bottom") for item in sides)


def test_queues_of_size_one(web):
    assert Counter(web.kept("tight3")) == Counter([f"{each}tu" for each in range(30)] * 2)


def test_no_items_at_all(web):
    assert web.kept("empty2") == []
    assert web.kept("empty_sum") == [(0, 0)]


def test_one_becomes_a_hundred_thousand_and_they_become_one(web):
    assert web.lines("sum.txt") == ["100000 4999950000"]
    assert web.kept("total") == [(100_000, 4_999_950_000)]


# --- cycles ---------------------------------------------------------------------------------------------------------


def loops() -> dict[str, dict[str, Any]]:
    return {
        # a cycle of one task, and of one with many workers
        "starts": {"call": "starts", "args": [40], "outputs": "again"},
        "collatz": step("collatz", "again", {"again": "again", "arrived": "arrived"}, workers=2),
        "keep_arrived": keeper("arrived"),
        # each item becomes many, over a bounded way in
        "root": {"call": "operator:index", "args": [0], "outputs": "root"},
        "tree": {
            "inputs": ["root", "children"],
            "outputs": {"default": "seen", "children": "children"},
            "with": {"most": 400},
            "workers": 2,
        },
        "keep_seen": keeper("seen"),
        # a ring of three tasks that nothing leaves
        "ring0": {"call": "count", "args": [40], "outputs": "ring_in"},
        "ring1": step("down", ["ring_in", "ring3"], "ring1", workers=2),
        "ring2": step("down", "ring1", "ring2"),
        "ring3": step("down", "ring2", "ring3"),
        # two cycles with one task in common
        "orbit0": {"call": "count", "args": [60], "outputs": "orbits"},
        "orbit": step("outer", ["orbits", "short", "back"], {"out": "landed", "short": "short", "long": "long"}),
        "longer": step("add", "long", "back", 0, workers=2),
        "keep_landed": keeper("landed"),
        # nothing comes in
        "still": {"call": "nothing", "outputs": "calm"},
        "calm1": step("down", ["calm", "calm2"], "calm1"),
        "calm2": step("down", "calm1", "calm2"),
    }


LOOPS = {name: {"loop": True} for name in ("again", "children", "ring3", "short", "back", "calm2")}


@pytest.fixture(scope="module", params=[pytest.param("threads", marks=pytest.mark.slow), *MIXED[1:3]])
def looped(request, tmp_path_factory) -> Finished:
    tasks, modes = loops(), MIXES[request.param]
    for number, table in enumerate(tasks.values()):
        table.setdefault("mode", modes[number % len(modes)])
    tight = {"ring1": {"size": 1}, "ring2": {"size": 2}, "long": {"size": 1}, "seen": {"size": 1}}
    return run(tmp_path_factory.mktemp("loops"), task_file(tasks, {**LOOPS, **tight}), FILES, timeout=100).ok()


def collatz_steps(start: int) -> int:
    steps = 0
    while start != 1:
        start = start // 2 if start % 2 == 0 else 3 * start + 1
        steps += 1
    return steps


def test_a_cycle_of_one_task_ends_by_itself(looped):
    assert Counter(looped.kept("arrived")) == Counter((start, collatz_steps(start)) for start in range(1, 40))


def test_a_cycle_in_which_items_multiply_ends_by_itself(looped):
    assert Counter(looped.kept("seen")) == Counter(range(400))


def test_two_cycles_with_a_task_in_common_end_by_themselves(looped):
    assert looped.kept("landed") == [0] * 60


# --- after ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_after_in_its_three_states_when_all_goes_well(tmp_path, mode):
    tasks = {
        # `started`: `early` runs while `long` still waits for it
        "long": {"call": "say_and_wait", "args": ["long"], "with": {"file": "early.txt"}},
        "early": {"call": "touch", "args": ["early.txt"], "after": {"long": "started"}},
        # a list, `ok` and `ended`: only afterwards
        "listed": {"call": "say", "args": ["listed"], "after": ["long"]},
        "last": {"call": "say", "args": ["last"], "after": {"long": "ok", "listed": "ended", "early": "started"}},
        # a source after a sink
        "numbers": source(5, "numbers"),
        "sink": {"call": "say_items", "inputs": "numbers", "with": {"to": "sunk.txt"}},
        "then": {"call": "say", "args": ["then"], "with": {"to": "sunk.txt"}, "after": ["sink"]},
    }
    finished = run(tmp_path, task_file(tasks, mode=mode), FILES).ok()
    assert finished.lines("said.txt") == ["long", "long ends", "listed", "last"]
    assert finished.lines("sunk.txt")[-1] == "then"
    assert sorted(finished.lines("sunk.txt")[:-1]) == list("01234")


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_after_in_its_three_states_when_the_first_fails(tmp_path, mode):
    tasks = {
        "bad": {"call": "fail", "args": ["bad"]},
        "listed": {"call": "say", "args": ["never"], "after": ["bad"]},
        "if_ok": {"call": "say", "args": ["never"], "after": {"bad": "ok"}},
        "behind": {"call": "say", "args": ["never"], "after": ["listed"]},
        "started": {"call": "say", "args": ["started"], "after": {"bad": "started"}},
        "ended": {"call": "say", "args": ["ended"], "after": {"bad": "ended"}},
        "cleaning": {"call": "say", "args": ["cleaning"], "after": {"listed": "ended", "ended": "ok"}},
        # a source that does not start: its queue is closed, and what is downstream ends
        "numbers": source(5, "numbers", after=["bad"]),
        "keep_numbers": keeper("numbers"),
        # independent tasks go on
        "free": source(5, "free"),
        "keep_free": keeper("free"),
        # what a source sent before it failed is not lost
        "half": {"call": "one_then_fail", "outputs": "half"},
        "keep_half": keeper("half"),
    }
    finished = run(tmp_path, task_file(tasks, mode=mode), FILES)
    assert finished.outcome.exit == 1, finished.outcome
    assert Counter(finished.lines("said.txt")) == Counter(["bad", "started", "ended", "cleaning"])
    assert finished.kept("numbers") == []
    assert Counter(finished.kept("free")) == Counter(range(5))
    assert finished.kept("half") == [1]
    for name in ("listed", "if_ok", "behind", "numbers"):
        assert f"task `{name}` was not started: a task that it comes after" in finished.outcome.err, finished.outcome
    for name in ("bad", "half"):
        assert f"task `{name}` has failed" in finished.outcome.err, finished.outcome
    assert "6 read = 6 done + 0 dead + 0 dropped + 0 left" in balance(finished.outcome), finished.outcome


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_task_that_comes_after_what_fills_its_queue(tmp_path, mode):
    """It gets what fits. With more, neither could ever go on: the run says so, and ends."""
    tasks = {
        "five": source(4, "five"),
        "sink5": {"call": "say_items", "inputs": "five", "after": ["five"]},
        "six": source(9, "six"),
        "through": step("same", "six", "sixes"),
        "sink6": {"call": "say_items", "inputs": "sixes", "after": ["six"]},
        "behind": {"call": "say", "args": ["never"], "after": ["sink6"]},
    }
    file = task_file(tasks, {"five": {"size": 5}, "six": {"size": 2}, "sixes": {"size": 2}}, mode=mode)
    finished = run(tmp_path, file, FILES)
    assert finished.outcome.exit == 1, finished.outcome
    assert sorted(finished.lines("said.txt")) == list("0123")
    assert "task `sink6` was not started: the task it starts after waits for room" in finished.outcome.err
    assert "task `behind` was not started" in finished.outcome.err
    assert "standstill" not in finished.outcome.err


# --- random graphs --------------------------------------------------------------------------------------------------

MAPS = {
    "kit.add": lambda item: [item + 7],
    "thirds": lambda item: [] if item % 3 == 0 else [item],
    "twins": lambda item: [item, item + 1],
    "Halver": lambda item: [item // 2],
    "drip": lambda item: [item * 3],
    "pump": lambda item: [item, -item],
    "bundle": lambda item: [item],
}

RANDOM = """
import asyncio
from runner import Inbox, Outbox, task

@task
def thirds(item):
    if item % 3:
        yield item

@task
def twins(item):
    yield item
    yield item + 1

@task
class Halver:
    def __call__(self, item):
        return item // 2

@task
async def drip(item):
    await asyncio.sleep(0)
    return item * 3

@task
def pump(q: Inbox, out: Outbox):
    while True:
        item = q.get()
        out.put(item)
        out.put(-item)

@task
def bundle(items):
    yield from items
"""


def random_graph(seed: int) -> tuple[str, dict[str, Counter[int]]]:
    """A random layered graph as a file, and what each keeper must receive."""
    draw = random.Random(seed)
    tasks: dict[str, dict[str, Any]] = {}
    carried: dict[str, Counter[int]] = {}
    readers: Counter[str] = Counter()

    def add(name: str, table: dict[str, Any], made: Counter[int]) -> None:
        table["mode"] = draw.choice(["thread", "process"])
        outputs = [f"{name}_{port}" for port in range(draw.choice([1, 1, 2]))]
        if draw.random() < 0.3 and carried:
            joined = [queue for queue in carried if readers[queue] == 0]  # nobody has counted it yet
            outputs += draw.sample(joined, min(1, len(joined)))
        tasks[name] = {**table, "outputs": outputs}
        for queue in outputs:
            carried.setdefault(queue, Counter()).update(made)

    for number in range(draw.randint(1, 3)):
        count, workers = draw.choice([0, 1, 7, 300]), draw.randint(1, 2)
        add(f"s{number}", {"call": "count", "args": [count], "workers": workers}, Counter([*range(count)] * workers))
    for number in range(draw.randint(2, 6)):
        call = draw.choice(list(MAPS))
        inputs = draw.sample(list(carried), min(draw.choice([1, 1, 2]), len(carried)))
        readers.update(inputs)
        taken = sum((carried[queue] for queue in inputs), Counter())
        made: Counter[int] = Counter()
        for item, count in taken.items():
            for each in MAPS[call](item):
                made[each] += count
        table = {"call": call, "inputs": inputs, "workers": draw.randint(1, 3), "ordered": draw.random() < 0.3}
        if table["ordered"] and call == "pump":
            table["ordered"] = False
        table |= {"args": [7]} if call == "kit.add" else {}
        table |= {"batch": draw.choice([1, 3, 1000])} if call == "bundle" else {}
        before = set(carried)
        add(f"t{number}", table, made)
        # A queue that is joined later must not be one that leads here: that would be a cycle.
        readers.update(before)
    sinks = {f"keep_{queue}": keeper(queue) for queue in carried}
    described = {queue: {"size": draw.choice([1, 3, 50, 1000]), "fanout": "copy"} for queue in carried}
    return task_file({**tasks, **sinks}, described), carried


SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 60))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_graph_gives_what_a_plain_loop_gives(tmp_path, seed):
    toml, expected = random_graph(seed)
    finished = run(tmp_path, toml, {"plugins/graph.py": RANDOM}).ok()
    assert {queue: Counter(finished.kept(queue)) for queue in expected} == expected


# --- a million ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("modes", [["thread"], ["process"], ["thread", "process"], ["process", "thread"]])
def test_one_becomes_a_million_and_a_million_become_one(tmp_path, modes):
    tasks: dict[str, dict[str, Any]] = {
        "one": {"call": "operator:index", "args": [1_000_000], "outputs": "one"},
        "expand": {"inputs": "one", "outputs": ["many", "many_more"]},
        "same": step("same", "many", "same", workers=2),
        "sum": {"call": "Sum", "inputs": "same", "with": {"to": "sum.txt"}},
        "total": {"inputs": "many_more", "outputs": "total"},
        "keep_total": keeper("total"),
        "source": source(1_000_000, "source"),
        "count": {"call": "total_result", "inputs": "source", "workers": ["counter"]},
    }
    for number, table in enumerate(tasks.values()):
        table.setdefault("mode", modes[number % len(modes)])
    finished = run(tmp_path, task_file(tasks), FILES, timeout=110).ok()
    assert finished.lines("sum.txt") == ["1000000 499999500000"]
    assert finished.kept("total") == [(1_000_000, 499_999_500_000)]
    assert "\ncounter: 1000000\n" in "\n" + finished.outcome.err
