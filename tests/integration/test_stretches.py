"""Functions whose results are plain for thousands of items, so that they are executed in stretches, and then are not."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("short_diffs")

LINE = """
    [queues]
    numbers = {{ fanout = "copy" }}
    results = {{}}

    [defaults.task]
    mode = "{mode}"

    [tasks.numbers]
    outputs = "numbers"

    [tasks.change]
    inputs   = "numbers"
    outputs  = "results"
    attempts = {attempts}

    [tasks.keep]
    mode   = "thread"
    inputs = "results"
"""
BESIDE = """
    [queues.objects]

    [tasks.wrap]
    inputs  = "numbers"
    outputs = "objects"

    [tasks.fickle]
    inputs = "numbers"

    [tasks.weigh]
    mode   = "thread"
    inputs = "objects"
"""
WORK = """
    import json
    from pathlib import Path
    from runner import To, task

    FIRST, LAST = 20_000, 21_000

    @task
    def numbers():
        yield from range(LAST)

    @task
    def change(item):
        if item < FIRST:
            return item
        if item % 5 == 1:
            return [item]
        if item % 5 == 2:
            return (each for each in (item, -item))
        if item % 5 == 3:
            return To("default", item)
        if item % 5 == 4:
            raise ValueError(item)
        return None

    @task
    def wrap(item):
        return {"item": item}

    class Odd:
        def __bool__(self):
            raise RuntimeError("nobody may ask")

        def __eq__(self, other):
            raise RuntimeError("nobody may compare")

        __hash__ = None

    @task
    def fickle(item):
        if item < FIRST:
            return None
        if item % 3:
            return Odd()

        def more():
            with Path("ran").open("a") as file:
                print(item, file=file)
            yield
        return more()

    @task
    class keep:
        def __init__(self):
            self.kept = []

        def __call__(self, item):
            self.kept.append(item)

        def __exit__(self, *error):
            Path("kept.json").write_text(json.dumps(self.kept))

        def __enter__(self):
            return self

    @task
    class weigh(keep):
        def __exit__(self, *error):
            Path("weighed.json").write_text(json.dumps(self.kept))
"""


def expected():
    for item in range(21_000):
        if item < 20_000:
            yield item
        elif item % 5 == 1:
            yield [item]
        elif item % 5 == 2:
            yield from (item, -item)
        elif item % 5 == 3:
            yield item
        elif item % 5 == 0:
            yield None


@pytest.mark.parametrize("mode", [pytest.param("thread", marks=pytest.mark.slow), "process"])
def test_what_becomes_something_else_is_treated_as_such(project, mode):
    made = project({"tasks.toml": (LINE + BESIDE).format(mode=mode, attempts=1), "plugins/work.py": WORK})
    outcome = made.run("tasks.toml", "--dead-ok")
    assert (outcome.exit, "200 dead" in outcome.err) == (0, True), outcome.err
    assert json.loads((made.path / "kept.json").read_text()) == list(expected())
    assert json.loads((made.path / "weighed.json").read_text()) == [{"item": item} for item in range(21_000)]
    ran = [int(line) for line in (made.path / "ran").read_text().splitlines()]
    assert ran == [item for item in range(20_000, 21_000) if item % 3 == 0]


AGAIN = """
    from collections import Counter
    from runner import task

    SEEN = set()

    @task
    def numbers():
        yield from range(21_000)

    @task
    def change(item):
        return item if item < 20_000 or item % 7 else twice(item)

    def twice(item):
        yield item
        if item not in SEEN:
            SEEN.add(item)
            raise ValueError(item)
        yield item

    @task
    class keep:
        def __enter__(self):
            self.kept = Counter()
            return self

        def __call__(self, item):
            self.kept[item] += 1

        def __exit__(self, *error):
            wanted = Counter({item: 1 if item < 20_000 or item % 7 else 2 for item in range(21_000)})
            print("lost", sum((wanted - self.kept).values()), "twice", sum((self.kept - wanted).values()))
"""


@pytest.mark.parametrize("mode", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_what_failed_in_a_stretch_takes_back_what_it_had_made_and_nothing_else(project, mode):
    """Its neighbours' results came after it: taken back with it they were lost, or it stayed and came twice."""
    outcome = project({"tasks.toml": LINE.format(mode=mode, attempts=2), "plugins/work.py": AGAIN}).run("tasks.toml")
    assert outcome.exit == 0, outcome.err
    assert "lost 0 twice 0" in outcome.out
