"""Random functions: forms × what they raise, return and yield × modes, batches, orders and attempts.

What they have noted of themselves is the truth: every item is done with what its last call gave, or dead; nothing is
lost, nothing comes twice, and the exit says which of the two it was.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from edges import behaviours
from edges.behaviours import FORMS, MANY, NO_ITEMS, ODD, RAISES, SOURCES, Script
from faults.harness import plan, run, task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.model import QueueConfig

COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": False,
}
_LISTS: dict[int, list[Any]] = {}


def collect(item: Any, key: int) -> None:
    """An item by its number; odd ones are all called -1, as what the functions note of them."""
    _LISTS[key].append(item if type(item) in {tuple, int} and (type(item) is tuple or item < 10**6) else -1)


def collector(collected: list[Any]) -> Any:
    _LISTS[id(collected)] = collected
    return task("collect", collect, "b", mode="thread", args=(id(collected),))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    form = draw(st.sampled_from(sorted(FORMS)))
    count = draw(st.integers(1, 40))
    acts = draw(
        st.dictionaries(st.integers(0, count - 1), st.sampled_from([*RAISES, *NO_ITEMS, *ODD, *MANY]), max_size=4)
    )
    boxed = form.startswith("boxed")
    batch = draw(st.sampled_from([None, None, 3])) if not boxed and "later" not in form.lower() else None
    batch = None if form in {"made_async", "async_generator"} else batch
    return {
        "form": form,
        "count": count,
        "acts": acts,
        "batch": batch,
        "ordered": not boxed and draw(st.booleans()),
        "attempts": draw(st.sampled_from([1, 1, 2])) if batch is None and form != "boxed_threads" else 1,
        "once": draw(st.booleans()),
        "workers": draw(st.sampled_from([1, 1, 2])),
        "size": draw(st.sampled_from([1, 4, 1000])),
        "sink": draw(st.sampled_from([False, False, True])),
    }


def check(case: dict[str, Any], mode: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        acts = case["acts"]
        if case["form"] == "boxed_threads":  # what a thread of the function's own cannot put is that thread's error
            acts = {item: act for item, act in acts.items() if act not in NO_ITEMS}
        sink = case["sink"] and not case["form"].startswith("boxed")
        if sink:  # it has no ports: a `To` is as good as anything
            acts = {item: act for item, act in acts.items() if act != "no port"}
        script = Script(Path(folder), acts, case["once"])
        collected: list[Any] = []
        options = {key: case[key] for key in ("ordered", "attempts", "workers")}
        if case["batch"]:
            options["batch"] = case["batch"]
        work = task(
            "work", FORMS[case["form"]], "a", "" if sink else "b", mode=mode, with_={"script": script}, **options
        )
        source = task("source", behaviours.numbers, outputs="a", args=(case["count"],), mode="thread")
        queues = {name: QueueConfig(name, size=case["size"]) for name in ("a", "b")}
        tasks = [source, work] if sink else [source, work, collector(collected)]
        try:
            outcome = run(plan(tasks, {name: queues[name] for name in ("a", "b")[: 2 - sink]}), _numbered(collected))
        finally:
            _LISTS.pop(id(collected), None)
        verify(case, script, collected, outcome, sink=sink)


class _numbered(list[Any]):
    def __init__(self, around: list[Any]) -> None:
        super().__init__()
        self.around = around

    def __iter__(self) -> Any:
        return iter(self.around)


def verify(case: dict[str, Any], script: Script, collected: list[Any], outcome: Any, *, sink: bool) -> None:
    last = dict(script.notes())  # a call's last try counts
    items = [item for key in last for item in key]
    assert sorted(items) == list(range(case["count"])), "every item is called for"
    expected: Counter[Any] = Counter()
    dead = 0
    for key, gives in last.items():
        if gives is None:
            dead += len(key)
        for give in gives or ():
            expected[tuple(give) if isinstance(give, list) else give] += 1
    if not sink:
        assert Counter(collected) == expected
    assert outcome.result.headline.dead == dead
    assert len(outcome.letters) == dead
    assert outcome.result.exit_code == (4 if dead else 0)


QUICK = settings(max_examples=20, **COMMON)


@QUICK
@given(cases())
def test_random_functions_in_threads(case: dict[str, Any]) -> None:
    check(case, "thread")


@pytest.mark.slow
@settings(max_examples=900, **COMMON)
@given(cases())
def test_random_functions_in_threads_many(case: dict[str, Any]) -> None:
    check(case, "thread")


@pytest.mark.slow
@settings(max_examples=60, **COMMON)
@given(cases())
def test_random_functions_in_processes(case: dict[str, Any]) -> None:
    check(case, "process")


def source_check(form: str, count: int, mode: str, size: int) -> None:
    collected: list[Any] = []
    queues = {"b": QueueConfig("b", size=size)}
    try:
        made = plan(
            [task("source", SOURCES[form], outputs="b", with_={"count": count}, mode=mode), collector(collected)],
            queues,
        )
        outcome = run(made, collected)
    finally:
        _LISTS.pop(id(collected), None)
    assert sorted(collected) == list(range(count))
    assert outcome.result.exit_code == (1 if form == "SrcSwallows" else 0)


@settings(max_examples=25, **COMMON)
@given(st.sampled_from(sorted(SOURCES)), st.integers(0, 60), st.sampled_from([1, 7, 1000]))
def test_random_sources_in_threads(form: str, count: int, size: int) -> None:
    source_check(form, count, "thread", size)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("form", sorted(SOURCES))
def test_every_source(form: str, size: int, mode: str) -> None:
    source_check(form, 50, mode, size)
