"""Durable runs as users have them: the command is killed, `runner resume` goes on, and nothing is lost or there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PLUGIN = """
import os, time
from pathlib import Path
from runner import Context, Outbox, task

def log(what):
    with open("executed", "a") as file:
        file.write(f"{what}\\n")

@task
def numbers(count: int):
    yield from range(count)

@task
def put_numbers(outbox: Outbox, *, count: int):
    for number in range(count):
        outbox.put(number)

@task
async def many_numbers(count: int):
    for number in range(count):
        yield number

@task
def work(item, *, seconds: float = 0.001, context: Context):
    time.sleep(seconds)
    log(f"{context.item_id} {item}")
    return item

@task
def odd(item):
    time.sleep(0.001)
    if item % 2:
        raise ValueError(f"odd: {item}")
    return item

@task
def arrays(count: int):
    for number in range(count):
        yield number.to_bytes(4, "big") * 50_000

@task
def first(item):
    time.sleep(0.002)
    return [int.from_bytes(item[:4], "big"), len(item)]

@task
def only(item):
    time.sleep(0.001)
"""

HEAD = """
title = "D"
[run]
durable = true
"""


class Durable:
    """A project whose run is killed and goes on. `kill_when` is asked again and again."""

    def __init__(self, project: Any, text: str, count: int, **files: str) -> None:
        self.project = project({"tasks.toml": HEAD + text, "plugins/jobs.py": PLUGIN, **files})
        self.path = self.project.path
        self.count = count
        self.kills = 0

    def size_of(self, name: str) -> int:
        parts = [self.path / name, *self.path.glob(f".{name}.*.part")]
        return sum(part.stat().st_size for part in parts if part.exists())

    def go(self, verb: str, kill_when: Callable[[], bool] | None = None, number: int = signal.SIGKILL) -> Any:
        """Begin, or go on; kill it when it is time, unless it has ended before that."""
        args = ["tasks.toml"] if verb == "run" else []
        running = self.project.start("--progress", "none", *args, verb=verb)
        if kill_when is not None:
            end = time.monotonic() + 60
            while running.process.poll() is None and not kill_when():
                assert time.monotonic() < end, "it does not come to what it is to be killed at"
                time.sleep(0.002)
            if running.process.poll() is None:
                self.kills += 1
                os.kill(running.process.pid, number)
        return running.finish()

    def to_the_end(self, sizes: Iterable[int], name: str = "out.txt") -> Any:
        """Kill it when its output has grown so far, for each size; then let it end."""
        verb = "run"
        for size in sizes:
            outcome = self.go(verb, lambda size=size: self.size_of(name) >= size)
            if outcome.exit >= 0:
                return outcome
            verb = "resume"
        return self.go(verb)

    def runs(self) -> list[str]:
        return [path.parent.name for path in self.path.glob(".runner/runs/*/ledger.db")]

    def lines(self, name: str = "out.txt") -> list[str]:
        return (self.path / name).read_text().splitlines()


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


LINE = """
[queues]
a = {{ {a} }}
b = {{}}
[tasks.{source}]
with = {{ count = {count} }}
outputs = "a"
mode = "{mode}"
[tasks.work]
inputs = "a"
outputs = "b"
workers = {workers}
mode = "{mode}"
{more}
[tasks.sink]
call = "std.write_lines"
with = {{ path = "out.txt" }}
inputs = "b"
"""


def line(
    source: str = "numbers", count: int = 3000, workers: int = 2, mode: str = "process", more: str = "", a: str = ""
) -> str:
    return LINE.format(source=source, count=count, workers=workers, mode=mode, more=more, a=a)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        ("numbers", "process"),
        ("many_numbers", "thread"),
        slow("put_numbers", "process"),
        slow("many_numbers", "process"),
        slow("numbers", "thread"),
        slow("put_numbers", "thread"),
    ],
)
def test_a_line_that_is_killed_goes_on_and_each_line_is_there_once(project: Any, source: str, mode: str) -> None:
    made = Durable(project, line(source, count=1200, mode=mode), 1200)
    outcome = made.to_the_end([100, 1500])
    assert outcome.exit == 0, outcome
    assert made.kills == 2
    assert "1,200 read = 1,200 done + 0 dead + 0 dropped + 0 left" in outcome.err
    assert sorted(made.lines(), key=int) == numbers(1200)
    assert not list(made.path.glob(".out.txt*")), "the part is in its place"
    assert not made.runs(), "nothing of the ledger is kept"
    names: dict[str, str] = {}
    for each in made.lines("executed"):
        item_id, item = each.split()
        assert names.setdefault(item_id, item) == item, "an id names two items"


def test_an_ordered_task_keeps_its_order_over_all_lives(project: Any) -> None:
    made = Durable(project, line(count=1200, workers=3, more="ordered = true"), 1200)
    outcome = made.to_the_end([100, 1500])
    assert outcome.exit == 0, outcome
    assert made.kills == 2
    assert made.lines() == numbers(1200)


FANOUT = """
[queues]
a = { fanout = "copy" }
b = {}
[tasks.numbers]
with = { count = 1500 }
outputs = "a"
[tasks.work]
inputs = "a"
outputs = "b"
workers = 2
[tasks.rows]
call = "std.write_jsonl"
with = { path = "rows.jsonl" }
inputs = "a"
[tasks.sink]
call = "std.write_csv"
with = { path = "out.txt" }
inputs = "b"
"""


@pytest.mark.slow
def test_both_ways_of_a_copied_queue_are_complete(project: Any) -> None:
    made = Durable(project, FANOUT.replace('"std.write_csv"', '"std.write_lines"'), 1500)
    outcome = made.to_the_end([100, 2000])
    assert outcome.exit == 0, outcome
    assert made.kills == 2
    assert sorted(made.lines(), key=int) == numbers(1500)
    assert sorted(json.loads(each) for each in made.lines("rows.jsonl")) == list(range(1500))


LETTERS = """
[queues]
a = {}
b = {}
bad = {}
[tasks.numbers]
with = { count = 1000 }
outputs = "a"
[tasks.odd]
inputs = "a"
outputs = "b"
dead = "bad"
workers = 2
[tasks.sink]
call = "std.write_lines"
with = { path = "out.txt" }
inputs = "b"
[tasks.letters]
call = "std.write_jsonl"
with = { path = "bad.jsonl" }
inputs = "bad"
"""


def test_dead_letters_are_there_once(project: Any) -> None:
    made = Durable(project, LETTERS, 1000)
    outcome = made.to_the_end([50, 1000])
    assert outcome.exit == 4, outcome
    assert made.kills == 2
    assert "1,000 read = 500 done + 500 dead + 0 dropped + 0 left" in outcome.err
    assert sorted(map(int, made.lines())) == list(range(0, 1000, 2))
    letters = [json.loads(each) for each in made.lines("bad.jsonl")]
    assert sorted(letter["item"] for letter in letters) == list(range(1, 1000, 2))
    assert {letter["error"] for letter in letters} >= {"ValueError: odd: 1"}


ARRAYS = """
[queues]
a = { size = 20 }
b = {}
[tasks.arrays]
with = { count = 200 }
outputs = "a"
[tasks.first]
inputs = "a"
outputs = "b"
workers = 2
[tasks.sink]
call = "std.write_jsonl"
with = { path = "out.txt" }
inputs = "b"
"""


def test_large_items_are_there_once(project: Any) -> None:
    made = Durable(project, ARRAYS, 200)
    outcome = made.to_the_end([50, 1000])
    assert outcome.exit == 0, outcome
    assert made.kills == 2
    assert sorted(json.loads(each) for each in made.lines()) == [[number, 200_000] for number in range(200)]


def test_a_run_that_was_stopped_says_that_it_is_kept_and_goes_on(project: Any) -> None:
    made = Durable(project, line(count=2000), 2000)
    outcome = made.go("run", lambda: made.size_of("out.txt") > 100, signal.SIGINT)
    assert outcome.exit == 130, outcome
    (run,) = made.runs()
    assert f"kept: runner resume {run}" in outcome.err
    assert "`numbers` had not ended" in outcome.err
    assert not (made.path / "out.txt").exists()
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert sorted(made.lines(), key=int) == numbers(2000)


def test_a_source_that_gives_other_items_than_before_is_an_error_and_what_was_queued_is_executed(project: Any) -> None:
    lines = [f"line {number}" for number in range(3000)]
    text = line().replace(
        "[tasks.numbers]\nwith = { count = 3000 }", '[tasks.read]\ncall = "std.lines"\nwith = { path = "in" }'
    )
    made = Durable(project, text, 3000, **{"in": "\n".join(lines) + "\n"})
    made.go("run", lambda: made.size_of("out.txt") > 1000)
    assert made.kills == 1
    lines[5] = "another line"
    (made.path / "in").write_text("\n".join(lines) + "\n")
    outcome = made.go("resume")
    assert outcome.exit == 1, outcome
    assert "one of the items 5 to 8 is not the one that it gave before; " in outcome.err
    assert "kept: runner resume" in outcome.err
    lines[5] = "line 5"
    (made.path / "in").write_text("\n".join(lines) + "\n")
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert sorted(made.lines()) == sorted(lines)


def test_a_run_that_ended_with_dead_items_has_nothing_to_go_on_with_and_says_how_it_had_ended(project: Any) -> None:
    made = Durable(
        project, LETTERS.replace('dead = "bad"\n', "").partition("[tasks.letters]")[0].replace("bad = {}\n", ""), 1000
    )
    outcome = made.go("run")
    assert outcome.exit == 4, outcome
    assert made.runs(), "its dead items are kept"
    executed = made.lines()
    again = made.go("resume")
    assert again.exit == 4, again
    assert "1,000 read = 500 done + 500 dead + 0 dropped + 0 left" in again.err
    assert made.lines() == executed


def test_run_resume_goes_on_with_what_was_cut_short_or_begins(project: Any) -> None:
    made = Durable(project, line(), 3000)
    made.go("run", lambda: made.size_of("out.txt") > 100)
    (first,) = made.runs()
    (made.path / "other.toml").write_text(HEAD + line(count=5).replace("out.txt", "other.txt"))
    other = made.project.run("other.toml", "--resume", "--progress", "none")
    assert other.exit == 0, other
    assert "5 read = 5 done" in other.err, "it is another file's"
    assert made.runs() == [first]
    outcome = made.project.run("--resume", "--progress", "none")
    assert outcome.exit == 0, outcome
    assert "3,000 read = 3,000 done" in outcome.err
    assert sorted(made.lines(), key=int) == numbers(3000)
    assert not made.runs()
    (made.path / "executed").unlink()
    again = made.project.run("--resume", "--progress", "none")
    assert again.exit == 0, again
    assert len(made.lines("executed")) == 3000, "nothing was left, so it has begun again"


def test_a_run_that_has_only_dead_items_left_is_not_gone_on_with_by_run_resume(project: Any) -> None:
    text = "[queues]\na = {}\n[tasks.numbers]\nwith = { count = 10 }\noutputs = 'a'\n[tasks.odd]\ninputs = 'a'\n"
    made = Durable(project, text, 10)
    assert made.project.run("--resume", "--progress", "none").exit == 4
    assert len(made.runs()) == 1
    outcome = made.project.run("--resume", "--progress", "none")
    assert outcome.exit == 4, outcome
    assert "10 read = 5 done + 5 dead" in outcome.err
    assert len(made.runs()) == 2


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_refused(project: Any) -> None:
    made = Durable(project, line(count=10), 10)
    (made.path / ".runner").write_text("not a folder")
    outcome = made.project.run("--no-record")
    assert outcome.exit == 3, outcome
    assert not (made.path / "out.txt").exists()


@pytest.mark.slow
def test_halt_counts_the_dead_of_this_life(project: Any) -> None:
    text = LETTERS.replace("[queues]", "halt = 300\n[queues]", 1)
    made = Durable(project, text, 1000)
    outcome = made.go("run")
    assert outcome.exit == 5, outcome
    assert "kept: runner resume" in outcome.err
    outcome = made.go("resume")
    assert outcome.exit == 4, outcome
    assert "1,000 read = 500 done + 500 dead" in outcome.err
    assert len(made.lines("bad.jsonl")) == 500


@pytest.mark.slow
def test_a_source_whose_worker_dies_goes_on(project: Any) -> None:
    text = line(count=2000, a="size = 50")
    made = Durable(project, text, 2000)
    running = made.project.start("--progress", "none", "tasks.toml")
    end = time.monotonic() + 60
    while not made.size_of("out.txt") > 100:
        assert time.monotonic() < end
        time.sleep(0.002)
    for process in psutil.Process(running.process.pid).children(recursive=True):
        if "numbers" in " ".join(process.cmdline()):
            process.kill()
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert sorted(made.lines(), key=int) == numbers(2000)


@pytest.mark.slow
def test_what_refuses_to_go_on(project: Any) -> None:
    made = Durable(project, line(), 3000)
    outcome = made.go("resume")
    assert outcome.exit == 2
    assert "has a ledger to go on with" in outcome.err
    made.go("run", lambda: made.size_of("out.txt") > 100)
    (run,) = made.runs()
    text = (made.path / "tasks.toml").read_text()
    (made.path / "tasks.toml").write_text(text.replace("[tasks.numbers]", '[tasks.other]\ncall = "numbers"'))
    outcome = made.go("resume")
    assert outcome.exit == 3, outcome
    assert "source `numbers`, which has given items, is not there" in outcome.err
    (made.path / "tasks.toml").write_text(text)
    first = made.project.start("--progress", "none", verb="resume")
    end = time.monotonic() + 60
    lock = made.path / ".runner/runs" / run / "lock"
    while json.loads(lock.read_text() or "{}").get("pid") != first.process.pid:
        assert time.monotonic() < end
        time.sleep(0.002)
    second = made.go("resume")
    assert second.exit == 3, second
    assert f"run {run} is going on: process {first.process.pid} on " in second.err
    assert first.finish().exit == 0
    assert sorted(made.lines(), key=int) == numbers(3000)


def test_no_durable_on_the_command_line_keeps_no_ledger(project: Any) -> None:
    made = Durable(project, line(count=10), 10)
    outcome = made.project.run("--no-durable", "--no-record")
    assert outcome.exit == 0
    assert not made.runs()
    assert not (made.path / ".runner").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(60))
def test_kills_at_random_moments(project: Any, seed: int) -> None:
    draw = random.Random(seed)
    count = draw.choice([300, 3000])
    more = draw.choice(["", "ordered = true", "attempts = 3"])
    made = Durable(
        project,
        line(count=count, workers=draw.randint(1, 4), mode=draw.choice(["process", "thread"]), more=more),
        count,
    )
    verb = "run"
    for _ in range(draw.randint(1, 6)):
        until = time.monotonic() + draw.uniform(0.1, 2.5)
        outcome = made.go(verb, lambda until=until: time.monotonic() > until)
        if outcome.exit >= 0:
            break
        verb = "resume" if made.runs() else "run"
    else:
        outcome = made.go(verb)
    if outcome.exit == 3 and "ended before it began" in outcome.err:
        return
    assert outcome.exit == 0, outcome
    assert Counter(made.lines()) == Counter(numbers(count))
    if "ordered" in more:
        assert made.lines() == numbers(count)
