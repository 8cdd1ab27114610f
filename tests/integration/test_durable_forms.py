"""Durable runs of all forms, killed at random moments: what they write is what an undisturbed run writes, to the byte."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from integration.test_durable import PLUGIN, Durable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMS = """
@task
def saved_numbers(count: int, *, context: Context):
    for number in range(context.saved or 0, count):
        yield number
        if number % 50 == 49:
            context.save(number + 1)

@task
def long_numbers(count: int):
    for number in range(count):
        yield number.to_bytes(4, "big") * (25_000 if number % 20 == 0 else 1)

def number_in(item):
    return item if isinstance(item, int) else int.from_bytes(item[:4], "big")

@task
def step(item, *, with_errors: bool, seconds: float, context: Context):
    time.sleep(seconds)
    number = number_in(item)
    log(f"{context.item_id} {number}")
    if with_errors and number % 7 == 3:
        raise ValueError(f"not {number}")
    return number

@task
def step_many(items: list, *, with_errors: bool, seconds: float, context: Context):
    time.sleep(seconds * len(items))
    numbers = [number_in(item) for item in items]
    if with_errors and len(numbers) == 1 and numbers[0] % 7 == 3:
        raise ValueError(f"not {numbers[0]}")
    yield from numbers
"""
SOURCES = ("numbers", "put_numbers", "many_numbers", "saved_numbers", "long_numbers")


class Form(NamedTuple):
    """What a run looks like."""

    source: str
    mode: str
    workers: int
    copied: bool
    ordered: bool
    errors: str
    batch: int
    count: int

    @property
    def keeps_order(self) -> bool:
        return self.ordered or self.workers == 1

    def text(self) -> str:
        work = [
            f'call = "{"step_many" if self.batch else "step"}"',
            f"with = {{ with_errors = {str(bool(self.errors)).lower()}, seconds = {0.6 / self.count} }}",
            f'mode = "{self.mode}"',
            f"workers = {self.workers}",
        ]
        work += [f"batch = {self.batch}"] * bool(self.batch) + ["ordered = true"] * self.ordered
        work += ['dead = "bad"'] * (self.errors == "queue")
        tables = [
            "[queues]",
            'a = { fanout = "copy" }' if self.copied else "a = {}",
            "b = {}",
            *["bad = {}"] * (self.errors == "queue"),
            f"[tasks.{self.source}]",
            f'with = {{ count = {self.count} }}\nmode = "{self.mode}"\noutputs = "a"',
            "[tasks.work]",
            *work,
            'inputs = "a"\noutputs = "b"',
            sink("std.write_lines", "b", "out.txt"),
            sink("step_sink", "a", "copy.txt") if self.copied else "",
            sink("std.write_jsonl", "bad", "bad.jsonl") if self.errors == "queue" else "",
        ]
        return "\n".join(tables)


def sink(call: str, queue: str, path: str) -> str:
    if call == "step_sink":  # of items that are bytes, their numbers: by a task between
        more = '[queues.c]\n[tasks.reads]\ncall = "step"\nwith = { with_errors = false, seconds = 0.0 }\n'
        return f'{more}inputs = "{queue}"\noutputs = "c"\n{sink("std.write_lines", "c", path)}'
    return f'[tasks.to_{path.partition(".")[0]}]\ncall = "{call}"\nwith = {{ path = "{path}" }}\ninputs = "{queue}"'


def draw_form(seed: int) -> Form:
    """The forms in turn, in each way in which two of them can meet in some seed; the rest by chance."""
    draw = random.Random(seed)
    pairs = [*itertools.product(SOURCES, ("process", "thread"), (False, True))]
    source, mode, ordered = pairs[seed % len(pairs)]
    errors = draw.choice(["", "", "queue", "store"])
    batch = 0 if errors else draw.choice([0, 0, 1, 7])  # a batch that fails is one letter for all of it
    return Form(
        source, mode, draw.choice([1, 2, 3]), draw.random() < 0.4, ordered, errors, batch, draw.choice([200, 1000])
    )


def outputs(path: Path, form: Form) -> dict[str, Any]:
    """What a run has written: to the byte where it keeps the order, else to the line."""
    found: dict[str, Any] = {"out": (path / "out.txt").read_bytes()}
    if not form.keeps_order:
        found["out"] = sorted(found["out"].splitlines(keepends=True))
    if form.copied:
        found["copy"] = (path / "copy.txt").read_bytes()
    if form.errors == "queue":
        letters = map(json.loads, (path / "bad.jsonl").read_text().splitlines())
        found["bad"] = sorted((letter["error"], letter["task"], letter["item"]) for letter in letters)
    for name in ("out.txt", "copy.txt", "bad.jsonl", "executed"):
        (path / name).unlink(missing_ok=True)
    return found


def moments(draw: random.Random, made: Durable) -> Callable[[], bool]:
    """A moment to kill at."""
    kind = draw.choice(["time", "written", "executed", "begun"])
    if kind == "begun":
        return lambda: bool(made.runs())
    if kind == "time":
        until = time.monotonic() + draw.uniform(0.2, 2.5)
        return lambda: time.monotonic() > until
    name, size = ("out.txt" if kind == "written" else "executed"), made.size_of("executed") * (kind == "executed")
    size += draw.choice([1, 200, 2000])
    return lambda: made.size_of(name) >= size


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(15))
def test_a_run_of_any_form_that_is_killed_writes_what_an_undisturbed_one_writes(project: Any, seed: int) -> None:
    form, draw = draw_form(seed), random.Random(f"kills {seed}")
    made = Durable(project, form.text(), form.count, **{"plugins/jobs.py": PLUGIN + FORMS})
    exit_code = 4 if form.errors else 0
    undisturbed = made.project.run("--no-durable", "--progress", "none")
    assert undisturbed.exit == exit_code, undisturbed
    expected = outputs(made.path, form)
    verb, kills = "run", draw.randint(1, 4)
    while True:
        outcome = made.go(verb, moments(draw, made) if made.kills < kills else None)
        if outcome.exit == 3 and "ended before it began" in outcome.err:
            for run in made.runs():
                (made.path / ".runner/runs" / run / "ledger.db").unlink()
        elif outcome.exit >= 0:
            break
        verb = "resume" if made.runs() else "run"
    assert outcome.exit == exit_code, f"{form}\n{outcome}"
    names: dict[str, str] = {}
    for each in made.lines("executed") if not form.batch else ():
        item_id, item = each.split()
        assert names.setdefault(item_id, item) == item, f"{form}: an id names two items"
    assert outputs(made.path, form) == expected, form
    if form.errors == "store":
        assert f"+ {sum(number % 7 == 3 for number in range(form.count)):,} dead" in outcome.err
    assert bool(made.runs()) == (form.errors == "store"), "a ledger is kept if it has dead items"
