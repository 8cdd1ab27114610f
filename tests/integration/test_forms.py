"""Every form of a task function of SPEC 2.4, with real workers, in both modes; one run for each mode holds them all."""

from __future__ import annotations

import json
import re

import pytest
from topology_runs import USES_KIT, Finished, balance, keeper, queues_of, run, task_file

MODES = ("thread", "process")

FORMS = (
    USES_KIT
    + '''
import asyncio
import multiprocessing
import os
import threading
from runner import Context, Inbox, Outbox, ShutDown, To, task


@task
def numbers(start, stop, *, step=1):
    yield from range(start, stop, step)


@task
def seven():
    return 7


@task
def nones():
    yield None
    yield 0
    yield None


@task
def nothing():
    return None


@task
def nothing_of(item):
    return None


@task
def mix(item, number, *, factor=1):
    return (item + number) * factor


@task
def odd(item):
    if item % 2:
        yield item


@task
def triangle(item):
    for each in range(item):
        yield item, each


@task
def answer():
    return {"answer": 42, "list": [1, None, "x"]}


@task
def quiet():
    note("quiet.txt", "ran")


@task
def whoami():
    yield threading.current_thread().name, multiprocessing.current_process().name, os.getpid()


@task
def sink(item):
    note("sink.txt", repr(item))


@task
class Stock:
    """A callable class that writes down its life."""

    def __init__(self, number, *, log):
        self.log, self.number = log, number
        self.say("made")

    def say(self, word):
        note(self.log, f"{os.getpid()} {threading.get_ident()} {id(self)} {word}")

    def __enter__(self):
        self.say("entered")

    def __exit__(self, kind, error, trace):
        self.say(f"left {kind.__name__ if kind else None}")

    def __call__(self, item):
        self.say("called")
        return item + self.number


@task
class Meadow:
    """A class as a source, and one whose __call__ is a generator."""

    def __init__(self, *, cows):
        self.cows = cows

    def __call__(self):
        yield from range(self.cows)


@task
class Filter:
    def __init__(self, *, by):
        self.by = by

    def __call__(self, item, context: Context):
        if item % self.by == 0:
            yield context.task, item


class _Crowd:
    """Waits until `many` are here at one time."""

    def __init__(self, many):
        self.many, self.here, self.most, self.full = many, 0, 0, asyncio.Event()

    async def meet(self):
        self.here += 1
        self.most = max(self.most, self.here)
        if self.here == self.many:
            self.full.set()
        await asyncio.wait_for(self.full.wait(), 30)
        await asyncio.sleep(0)
        self.here -= 1
        return self.most


_crowds = {}


@task
async def meet(item, *, many):
    if many not in _crowds:
        _crowds[many] = _Crowd(many)
    return item, await _crowds[many].meet()


@task
async def apart(item):
    for each in range(item):
        await asyncio.sleep(0)
        yield item, each


@task
async def adrip(stop):
    for each in range(stop):
        await asyncio.sleep(0)
        yield each


@task
async def aseven():
    await asyncio.sleep(0)
    return 7


@task
class Acall:
    def __init__(self, *, number):
        self.number = number

    async def __call__(self, item):
        await asyncio.sleep(0)
        return item * self.number


@task
async def asink(item):
    await asyncio.sleep(0)
    note("asink.txt", repr(item))


@task
def batched(items):
    assert type(items) is list
    return len(items), items


@task
def unpack(items):
    yield from items


@task
def gated():
    """Its first items must be through before the others come."""
    yield from range(3)
    until("through.txt")
    yield from range(3, 7)


@task
def waited(items):
    if 2 in items:
        note("through.txt", "")
    return items


@task
def about(item, context: Context):
    context.log.warning("saw %s", item)
    assert context.stopping is False
    return item, context.task, context.worker, context.attempt, context.item_id, context.run


@task
def stubborn(item, *, context: Context):
    note("stubborn.txt", f"{item} {context.item_id} {context.attempt}")
    if context.attempt < 3:
        raise ValueError("not yet")
    return item, context.attempt


@task
async def aabout(item, context: Context):
    mine = context.item_id
    await asyncio.sleep(0)
    assert context.item_id == mine
    return item, context.task, context.worker, context.attempt, context.item_id


@task
def solo(context: Context, *, word):
    yield word, context.task, context.worker, context.attempt, context.item_id, context.stopping


@task
def classic_writer(q: Outbox, count):
    for each in range(count):
        q.put(each)


@task
def classic_both(source: Inbox[int], target: "Outbox[int]", *, number):
    while True:
        item = source.get()
        target.put(item)
        target.put(item + number)


@task
def classic_reader(q: Inbox):
    while True:
        note("classic.txt", q.get())


@task
def for_reader(q: Inbox):
    return sum(q)


@task
def total(q: Inbox, out: Outbox):
    """An aggregate: its one item comes after its input has ended."""
    out.put(sum(q))


@task
def by_size(item):
    return To("small", item) if item < 5 else item


@task
def three_ways(item):
    yield To("small", -item)
    yield item
    yield To("both", item * 100)
'''
)

OTHER = """
from runner import task

@task
def seven():
    return "seven"

@task(name="eight")
def _hidden():
    return 8
"""

MODULE = """
def triple(item):
    return 3 * item

class Box:
    @staticmethod
    def wrap(item):
        return [item]
"""


def tasks():
    """Every form, each as its own small topology in the same file."""
    return {
        # sources
        "numbers": {"call": "numbers", "args": [2, 20], "with": {"step": 3}, "outputs": "numbers"},
        "meadow": {"call": "Meadow", "with": {"cows": 4}, "outputs": "meadow"},
        "one": {"call": "forms.seven", "outputs": "one"},
        "other": {"call": "other.seven", "outputs": "other"},
        "eight": {"outputs": "renamed"},
        "none": {"call": "nothing", "outputs": "none"},
        "adrip": {"args": [50], "outputs": "adrip"},
        "aseven": {"outputs": "aseven"},
        "whoami": {"workers": ["anna", "bert", "carl"], "outputs": "whoami"},
        "solo": {"with": {"word": "hi"}, "workers": ["han"], "outputs": "solo"},
        # what all transforms read: twelve numbers, a copy for each
        "feed": {"call": "count", "args": [12], "outputs": "feed"},
        "mix": {"args": [5], "with": {"factor": 2}, "inputs": "feed", "outputs": "mix"},
        "odd": {"inputs": "feed", "outputs": "odd"},
        "triangle": {"inputs": "feed", "outputs": "triangle"},
        "sink": {"inputs": "feed", "workers": 2},
        "lost": {"call": "nothing_of", "inputs": "feed", "outputs": "nothing"},
        "stock": {
            "call": "Stock",
            "args": [10],
            "with": {"log": "stock.txt"},
            "workers": 3,
            "inputs": "feed",
            "outputs": "stock",
        },
        "filter": {"call": "Filter", "with": {"by": 4}, "inputs": "feed", "outputs": "filtered"},
        "meet": {"with": {"many": 6}, "concurrency": 6, "inputs": "feed", "outputs": "met"},
        "meet1": {"call": "meet", "with": {"many": 1}, "concurrency": 1, "inputs": "feed", "outputs": "met1"},
        "apart": {"inputs": "feed", "workers": 2, "outputs": "apart"},
        "acall": {"call": "Acall", "with": {"number": 7}, "inputs": "feed", "outputs": "acall"},
        "asink": {"inputs": "feed"},
        "batched": {"batch": 5, "inputs": "feed", "outputs": "batched"},
        "batched2": {"call": "batched", "batch": {"items": 5}, "workers": 2, "inputs": "feed", "outputs": "batched2"},
        "unpack": {"batch": 5, "inputs": "feed", "outputs": "unpacked"},
        "about": {"inputs": "feed", "workers": ["kim", "lee"], "outputs": "about"},
        "aabout": {"inputs": "feed", "outputs": "aabout"},
        "stubborn": {"inputs": "feed", "attempts": 3, "backoff": {"first": "1ms"}, "outputs": "stubborn"},
        "by_size": {"inputs": "feed", "outputs": {"default": "large", "small": "small"}},
        "three_ways": {
            "inputs": "feed",
            "outputs": {"default": ["plain"], "small": "negative", "both": ["hundreds", "hundreds2"]},
        },
        "classic_both": {"with": {"number": 100}, "inputs": "feed", "workers": 2, "outputs": "doubled"},
        "classic_reader": {"inputs": "feed"},
        "for_reader": {"inputs": "feed", "workers": ["lector"]},
        "total": {"inputs": "feed", "outputs": "total"},
        "sqrt": {"call": "math:sqrt", "inputs": "feed", "outputs": "sqrt"},
        "neg": {"call": "operator:neg", "inputs": "feed", "outputs": "neg"},
        "str": {"call": "builtins:str", "inputs": "feed", "outputs": "str"},
        "pow": {"call": "operator:pow", "args": [2], "inputs": "feed", "outputs": "pow"},
        "triple": {"call": "beside:triple", "inputs": "feed", "outputs": "triple"},
        "wrap": {"call": "beside:Box.wrap", "inputs": "feed", "outputs": "wrap"},
        # not fed
        "nones": {"outputs": "nones"},
        "pass_nones": {"call": "same", "inputs": "nones", "outputs": "nones2"},
        "gated": {"outputs": "gated"},
        "waited": {"batch": {"items": 1000, "wait": "20ms"}, "inputs": "gated", "outputs": "waited"},
        "classic_writer": {"with": {"count": 30}, "outputs": "written"},
        # no queue at all
        "answer": {"workers": ["oracle"]},
        "len": {"call": "builtins:len", "args": ["four"], "workers": ["ruler"]},
        "quiet": {"workers": ["mouse", "rat"]},
    }


#: Read by the tests themselves, or by another task.
NOT_KEPT = {"feed", "nones", "gated"}


@pytest.fixture(scope="module", params=MODES)
def ran(request, tmp_path_factory) -> Finished:
    """Every form in one run of this mode; what comes out of each is kept by a thread."""
    sinks = {f"keep_{queue}": keeper(queue) for queue in queues_of(tasks()) if queue not in NOT_KEPT}
    toml = task_file({**tasks(), **sinks}, {"feed": {"fanout": "copy"}}, mode=request.param)
    files = {"plugins/forms.py": FORMS, "plugins/other.py": OTHER, "beside.py": MODULE}
    return run(tmp_path_factory.mktemp(request.param), toml, files, timeout=100)


@pytest.fixture
def mode(ran, request):
    return request.node.callspec.params["ran"]


FED = list(range(12))


def test_it_ends_well(ran):
    ran.ok()


EXACT = {
    "numbers": [2, 5, 8, 11, 14, 17],
    "meadow": [0, 1, 2, 3],
    "one": [7],
    "other": ["seven"],
    "renamed": [8],
    "none": [None],
    "adrip": list(range(50)),
    "aseven": [7],
    "solo": [("hi", "solo", "han", 1, "", False)],
    "mix": [(each + 5) * 2 for each in FED],
    "odd": [1, 3, 5, 7, 9, 11],
    "triangle": [(each, part) for each in FED for part in range(each)],
    "nothing": [None] * 12,
    "filtered": [("filter", 0), ("filter", 4), ("filter", 8)],
    "unpacked": FED,
    "large": [5, 6, 7, 8, 9, 10, 11],
    "small": [0, 1, 2, 3, 4],
    "plain": FED,
    "negative": [-each for each in FED],
    "hundreds": [each * 100 for each in FED],
    "hundreds2": [each * 100 for each in FED],
    "total": [66],
    "sqrt": [each**0.5 for each in FED],
    "neg": [-each for each in FED],
    "str": [str(each) for each in FED],
    "pow": [each**2 for each in FED],
    "triple": [each * 3 for each in FED],
    "wrap": [[each] for each in FED],
    "nones2": [None, 0, None],
    "written": list(range(30)),
    "stock": [each + 10 for each in FED],
    "acall": [each * 7 for each in FED],
    "apart": [(each, part) for each in FED for part in range(each)],
    "doubled": [*FED, *(each + 100 for each in FED)],
    "stubborn": [(each, 3) for each in FED],
    "batched": [(5, [0, 1, 2, 3, 4]), (5, [5, 6, 7, 8, 9]), (2, [10, 11])],
}


@pytest.mark.parametrize("queue", EXACT)
def test_it_gives_exactly_this(ran, queue):
    assert sorted(ran.kept(queue), key=repr) == sorted(EXACT[queue], key=repr)


@pytest.mark.parametrize("file", ["sink.txt", "asink.txt", "classic.txt"])
def test_a_sink_sees_every_item_once(ran, file):
    assert sorted(map(int, ran.lines(file))) == FED


def test_workers_bear_their_names(ran, mode):
    found = ran.kept("whoami")
    threads, processes, pids = zip(*found, strict=True)
    if mode == "thread":
        assert sorted(threads) == ["anna", "bert", "carl"]
        assert len(set(pids)) == 1
    else:
        assert sorted(processes) == ["anna", "bert", "carl"]
        assert len(set(pids)) == 3


def test_a_callable_class_is_made_set_up_and_torn_down_once_in_each_worker(ran):
    lives = {}
    for line in ran.lines("stock.txt"):
        *who, word = line.split(" ", 3)
        lives.setdefault(tuple(who), []).append(word)
    assert len(lives) == 3, lives
    for words in lives.values():
        assert words[:2] == ["made", "entered"]
        assert words[-1] == "left None"
        assert set(words[2:-1]) <= {"called"}
    assert sum(words.count("called") for words in lives.values()) == 12


def test_async_items_overlap_up_to_the_concurrency(ran):
    assert sorted(item for item, _ in ran.kept("met")) == FED
    assert max(most for _, most in ran.kept("met")) == 6
    assert sorted(ran.kept("met1")) == [(each, 1) for each in FED]


def test_batches_of_two_workers_are_full_but_for_the_rest(ran):
    found = ran.kept("batched2")
    assert sorted(size for size, _ in found) == [2, 5, 5]
    assert sorted(item for _, items in found for item in items) == FED


def test_a_batch_that_has_waited_long_enough_goes_although_it_is_not_full(ran):
    found = ran.kept("waited")
    assert sorted(item for items in found for item in items) == list(range(7))
    assert not [items for items in found if min(items) < 3 <= max(items)], "the first three went before the others came"


def test_context_says_who_and_what(ran, mode):
    found = ran.kept("about")
    assert sorted(each[0] for each in found) == FED
    assert {each[1] for each in found} == {"about"}
    assert {each[2] for each in found} <= {"kim", "lee"}
    assert {each[3] for each in found} == {1}
    assert len({each[4] for each in found}) == 12, "an id for each item"
    assert len({each[5] for each in found}) == 1, "one run"
    said = re.findall(r"^(kim|lee) \| WARNING saw (\d+)$", ran.outcome.err, re.MULTILINE)
    assert sorted(int(item) for _, item in said) == FED


def test_context_of_async_items_stays_with_its_item(ran):
    found = ran.kept("aabout")
    assert sorted(each[0] for each in found) == FED
    assert {each[1:4] for each in found} == {("aabout", "aabout", 1)}
    assert len({each[4] for each in found}) == 12


def test_an_item_keeps_its_id_through_its_attempts(ran):
    tries = {}
    for line in ran.lines("stubborn.txt"):
        item, item_id, attempt = line.split()
        tries.setdefault((int(item), item_id), []).append(int(attempt))
    assert sorted(item for item, _ in tries) == FED
    assert set(map(tuple, tries.values())) == {(1, 2, 3)}


def test_results_of_tasks_without_outputs_are_shown(ran):
    shown = dict(re.findall(r"^(oracle|ruler|lector|mouse|rat): (.*)$", ran.outcome.err, re.MULTILINE))
    assert json.loads(shown["oracle"]) == {"answer": 42, "list": [1, None, "x"]}
    assert shown["ruler"] == "4"
    assert shown["lector"] == "66"
    assert "mouse" not in shown, "None is no result"


def test_a_task_without_queues_runs_once_in_each_worker(ran):
    assert ran.lines("quiet.txt") == ["ran", "ran"]


# --- what goes wrong: one run for each mode ---------------------------------------------------------------------------

BROKEN = (
    USES_KIT
    + """
from runner import Context, Inbox, To, task


class Life:
    def __init__(self, log):
        self.log = log

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        note(self.log, f"{kind.__name__ if kind else None}: {error}")


@task
class Source(Life):
    def __call__(self):
        yield 1
        yield 2
        raise KeyError("out of items")


@task
class Call(Life):
    def __call__(self):
        raise LookupError("nothing here")


@task
class Transform(Life):
    def __call__(self, item):
        if item == 3:
            raise ValueError("three")
        return item


@task
def astray(item):
    return To("nowhere", item) if item == 3 else item


@task
def half(item):
    yield item
    if item == 3:
        raise ValueError("half done")
    yield -item


@task
def reader(q: Inbox):
    for item in q:
        if item == 3:
            raise ValueError("three")
        note("reader.txt", item)
"""
)


@pytest.fixture(scope="module", params=MODES)
def broken(request, tmp_path_factory) -> Finished:
    file = task_file(
        {
            "source": {"call": "Source", "args": ["source.txt"], "outputs": "twos"},
            "call": {"call": "Call", "args": ["call.txt"]},
            "feed": {"call": "count", "args": [6], "outputs": "feed"},
            "transform": {"call": "Transform", "args": ["transform.txt"], "inputs": "feed", "outputs": "rest"},
            "astray": {"inputs": "feed", "outputs": {"default": "near", "far": "far"}},
            "half": {"inputs": "feed", "outputs": "halves"},
            "reader": {"inputs": "feed"},
            **{f"keep_{queue}": keeper(queue) for queue in ("twos", "rest", "near", "far", "halves")},
        },
        {"feed": {"fanout": "copy"}},
        mode=request.param,
    )
    return run(tmp_path_factory.mktemp(request.param), file, {"plugins/broken.py": BROKEN})


def test_a_failed_source_fails_its_task_and_what_it_made_goes_on(broken):
    assert broken.outcome.exit == 1, broken.outcome
    assert broken.kept("twos") == [1, 2]
    assert "task `source` has failed" in broken.outcome.err
    assert "KeyError: 'out of items'" in broken.outcome.err


def test_exit_sees_the_failure_of_the_call(broken):
    assert broken.lines("source.txt") == ["KeyError: 'out of items'"]
    assert broken.lines("call.txt") == ["LookupError: nothing here"]


def test_exit_sees_no_failure_when_an_item_has_failed(broken):
    assert broken.lines("transform.txt") == ["None: None"]


def test_an_item_that_fails_is_dead_and_the_others_go_on(broken):
    assert sorted(broken.kept("rest")) == [0, 1, 2, 4, 5]
    assert sorted(broken.kept("near")) == [0, 1, 2, 4, 5]
    assert broken.kept("far") == []
    assert sorted(map(int, broken.lines("reader.txt"))) == [0, 1, 2, 4, 5]
    assert "To('nowhere', ...): this task has no such port (its ports: default, far)" in broken.outcome.err
    assert " + 4 dead + 0 dropped + 0 left" in balance(broken.outcome), broken.outcome


def test_what_was_yielded_before_the_error_counts(broken):
    assert sorted(broken.kept("halves")) == [-5, -4, -2, -1, 0, 0, 1, 2, 3, 4, 5]


def test_what_went_wrong_is_shown_with_the_users_own_frames_only(broken):
    err = broken.outcome.err
    assert 'broken.py", line' in err
    assert "runner/" not in re.sub(r".*plugins/broken\.py.*", "", err), broken.outcome
