"""Durable runs as users have them: the command is killed, `runner resume` goes on, and nothing is lost or there twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from topology_runs import wait_for

from runner.store.ledger_file import FORMAT
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

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


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


class Durable:
    """A project whose run is killed and goes on. `kill_when` is asked again and again."""

    def __init__(self, project: Any, text: str, count: int, **files: str) -> None:
        self.project = project({"tasks.toml": HEAD + text, "plugins/jobs.py": PLUGIN, **files})
        self.path = self.project.path
        self.count = count
        self.kills = 0

    def size_of(self, name: str) -> int:
        size = 0
        for part in [self.path / name, *self.path.glob(f".{name}.*.part")]:
            with contextlib.suppress(FileNotFoundError):  # a run that goes on takes its file back
                size += part.stat().st_size
        return size

    def go(
        self, verb: str, kill_when: Callable[[], bool] | None = None, number: int = signal.SIGKILL, *more: str
    ) -> Any:
        """Begin, or go on; kill it when it is time, unless it has ended before that.

        From the third time on nothing is known of what was executed, as after a power cut: an item that is executed
        at three deaths of everything is a dead one, and these were not its fault.
        """
        args = ["tasks.toml"] if verb == "run" else [*more]
        running = self.project.start("--progress", "none", *args, verb=verb)
        if kill_when is not None:
            end = time.monotonic() + 60
            while running.process.poll() is None and not kill_when():
                assert time.monotonic() < end, "it does not come to what it is to be killed at"
                time.sleep(0.002)
            if running.process.poll() is None:
                self.kills += 1
                os.kill(running.process.pid, number)
        outcome = running.finish()
        if self.kills > 2:
            for page in self.path.glob(".runner/runs/*/cells"):
                page.unlink()
        return outcome

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


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        ("numbers", "process"),
        slow("many_numbers", "thread"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_large_items_are_there_once(project: Any) -> None:
    made = Durable(project, ARRAYS, 200)
    outcome = made.to_the_end([50, 1000])
    assert outcome.exit == 0, outcome
    assert made.kills == 2
    assert sorted(json.loads(each) for each in made.lines()) == [[number, 200_000] for number in range(200)]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_that_ended_with_dead_items_has_nothing_to_go_on_with_and_says_how_it_had_ended(project: Any) -> None:
    made = Durable(
        project, LETTERS.replace('dead = "bad"\n', "").partition("[tasks.letters]")[0].replace("bad = {}\n", ""), 1000
    )
    outcome = made.go("run")
    assert outcome.exit == 4, outcome
    assert made.runs(), "its dead items are kept"
    executed = made.lines()
    (run,) = made.runs()
    record = made.path / ".runner/runs" / run / "record.json"
    before = record.read_text()
    (made.path / "tasks.toml").unlink()
    again = made.go("resume")
    assert again.exit == 4, again
    assert again.err == (
        f"nothing is left of run {run} to go on with: it has ended\n"
        "1,000 read = 500 done + 500 dead + 0 dropped + 0 left\n"
    )
    assert made.project.run("--dead-ok", "--json", verb="resume").json["exit_code"] == 4
    assert made.project.run(run[:-3], "--dead-ok", verb="resume").exit == 0
    record.unlink()
    assert made.go("resume").exit == 4
    record.write_text(before)
    assert made.lines() == executed


@pytest.mark.slow
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


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.slow
def test_the_list_of_runs_says_what_is_left_and_who_has_a_run_and_touches_nothing(project: Any) -> None:
    made = Durable(project, line(), 3000)
    made.go("run", lambda: made.size_of("out.txt") > 100)
    (run,) = made.runs()
    folder = made.path / ".runner/runs" / run
    (made.path / "executed").unlink()
    before = files_of(folder)
    assert "ledger.db-wal" in before
    shown = made.project.run("runs", verb="list").out
    (entry,) = made.project.run("runs", "--json", verb="list").json
    assert {name: at for name, at in files_of(folder).items() if not name.endswith("-shm")} == {
        name: at for name, at in before.items() if not name.endswith("-shm")
    }
    ledger = entry["ledger"]
    assert ledger["resumable"]
    assert ledger["unfinished"] in ([], ["numbers"])
    assert re.search(rf" killed .* left {ledger['left']:,} · \d.* MB · runner resume {run}$", shown, re.MULTILINE)
    other = made.project.run("runs", "-C", ".runner", "--state", ".", verb="list")
    assert f"runner resume {run} --state ." in other.out
    running = made.project.start("--progress", "none", verb="resume")
    wait_for(lambda: f'"pid":{running.process.pid}' in (folder / "lock").read_text())
    (entry,) = made.project.run("runs", "--json", verb="list").json
    assert (entry["end"], entry["ledger"]["going_on"]) == (
        "going on",
        {"pid": running.process.pid, "host": socket.gethostname()},
    )
    assert f"going on ({running.process.pid}, {socket.gethostname()})" in made.project.run("runs", verb="list").out
    wait_for((made.path / "executed").exists)  # before it executes, a signal may end it at once
    running.process.send_signal(signal.SIGINT)
    assert running.finish().exit in {0, 130}
    if made.runs():
        before = files_of(folder)
        assert not {"ledger.db-wal", "ledger.db-shm"} & before.keys(), "it was closed"
        assert f"runner resume {run}" in made.project.run("runs", verb="list").out
        assert files_of(folder) == before
        assert made.go("resume").exit == 0
    assert sorted(made.lines(), key=int) == numbers(3000)
    (entry,) = made.project.run("runs", "--json", verb="list").json
    assert (entry["end"], entry["ledger"]) == ("ended", None)


@pytest.mark.slow
def test_a_run_without_a_record_and_a_ledger_that_cannot_be_read_are_listed(project: Any) -> None:
    made = Durable(project, line(count=300), 300)
    running = made.project.start("tasks.toml", "--no-record", "--progress", "none")
    wait_for(lambda: made.size_of("out.txt") > 10)
    running.process.kill()
    running.finish()
    (run,) = made.runs()
    assert re.search(r"  no record +\?  D  ", made.project.run("runs", verb="list").out)
    (made.path / ".runner/runs" / run / "ledger.db-wal").unlink()
    (made.path / ".runner/runs" / run / "ledger.db").write_text("nonsense " * 100)
    assert " left ? · 0.0 MB" in made.project.run("runs", verb="list").out
    assert made.go("resume").exit == 3


@pytest.mark.slow
def test_a_run_without_a_ledger_has_ended_or_was_not_durable(project: Any) -> None:
    made = Durable(project, line(count=10), 10)
    ended = made.project.run("--dead-ok", "--json").json
    run = ended["run"]
    again = made.project.run(run, verb="resume")
    assert again.exit == 0, again
    assert f"nothing is left of run {run} to go on with: it has ended\n10 read = 10 done" in again.err
    assert made.project.run(verb="resume").exit == 2, "no run has a ledger"
    other = made.project.run("--no-durable", "--json").json["run"]
    refused = made.project.run(other, verb="resume")
    assert (refused.exit, refused.err) == (3, f"run {other} was not durable: it has no ledger to go on with\n")


@pytest.mark.slow
def test_a_run_that_cannot_go_on_is_refused_and_left_as_it_is(project: Any) -> None:
    made = Durable(project, line(), 3000)
    made.go("run", lambda: made.size_of("out.txt") > 100)
    (run,) = made.runs()
    folder, file = made.path / ".runner/runs" / run, made.path / "tasks.toml"
    unknown = made.project.run("nobody", verb="resume")
    assert (unknown.exit, unknown.err) == (
        2,
        f"runs with a ledger to go on with: {run}; `nobody` matches none of them\n",
    )
    text = file.read_text()
    file.unlink()
    gone = made.go("resume")
    assert gone.exit == 3, gone
    assert "the file does not exist" in gone.err
    file.write_text(text.replace("inputs", "imputs"))
    wrong = made.go("resume")
    assert wrong.exit == 3, wrong
    assert "did you mean `inputs`?" in wrong.err
    file.write_text(text)
    shutil.copytree(folder, made.path / "copy")
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as other:
        other.execute("PRAGMA user_version=9")
    refused = made.go("resume")
    assert refused.exit == 3, refused
    assert (
        f"has format 9, and this version of runner reads format {FORMAT}; runner {__version__}, which has"
        in refused.err
    )
    shutil.rmtree(folder)
    shutil.copytree(made.path / "copy", folder)
    with contextlib.closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as other:
        other.execute("UPDATE line SET done = done + 1")
    refused = made.go("resume")
    assert refused.exit == 3, refused
    assert "is damaged: a row of `line` is not what it was" in refused.err
    shutil.rmtree(folder)
    shutil.copytree(made.path / "copy", folder)
    assert made.go("resume").exit == 0
    assert sorted(made.lines(), key=int) == numbers(3000)


@pytest.mark.slow
def test_what_is_in_a_queue_that_is_gone_can_be_dropped(project: Any) -> None:
    made = Durable(project, LETTERS.replace("count = 1000", "count = 600"), 600)
    made.go("run", lambda: made.size_of("out.txt") > 50)
    text = (made.path / "tasks.toml").read_text()
    text = text.replace('inputs = "a"', 'inputs = "c"').replace('outputs = "a"', 'outputs = "c"')
    (made.path / "tasks.toml").write_text(text.replace("a = {}", "c = {}"))
    refused = made.go("resume")
    assert refused.exit == 3, refused
    found = re.search(r"queue `a`, which holds ([\d,]+) items, is not there; --drop a$", refused.err, re.MULTILINE)
    assert found, refused
    unknown = made.project.run("--drop", "x", verb="resume")
    assert unknown.exit == 2, unknown
    assert "no item came into a queue `x` of this run; queues: a, b" in unknown.err
    outcome = made.project.run("--drop", "a", "--progress", "none", verb="resume")
    assert outcome.exit == 4, outcome
    assert f"{found[1]} items of `a` dropped" in outcome.err
    balance = re.search(r"600 read = (\d+) done \+ (\d+) dead \+ (\d+) dropped \+ 0 left", outcome.err)
    assert balance, outcome
    done, dead, dropped = map(int, balance.groups())
    assert (done + dead + dropped, dropped) == (600, int(found[1]))
    assert len(made.lines()) == done
    assert len(made.lines("bad.jsonl")) == dead


@pytest.mark.slow
def test_a_run_can_be_drained_without_its_source_and_go_on_later(project: Any) -> None:
    made = Durable(project, line(a="size = 50"), 3000)
    made.go("run", lambda: made.size_of("out.txt") > 100)
    (run,) = made.runs()
    text = (made.path / "tasks.toml").read_text()
    head, _, tail = text.partition("[tasks.numbers]")
    (made.path / "tasks.toml").write_text(
        head + "[tasks.other]" + tail.replace("with =", 'call = "numbers"\nwith =', 1)
    )
    refused = made.go("resume")
    assert refused.exit == 3, refused
    assert "source `numbers`, which has given items, is not there; --drain goes on without it" in refused.err
    (made.path / "tasks.toml").write_text(text)
    drained = made.project.run("--drain", "--progress", "none", verb="resume")
    assert drained.exit == 0, drained
    read = re.search(r"([\d,]+) read = \1 done .* 0 left(?: .*)?; `numbers` had not ended$", drained.err, re.MULTILINE)
    assert read, drained
    assert drained.err.endswith(f"kept: runner resume {run}\n")
    assert sorted(made.lines(), key=int) == numbers(int(read[1].replace(",", ""))), "the file is in its place"
    listed = made.project.run("runs", verb="list").out
    assert re.search(rf"`numbers` had not ended · [\d.]+ MB · runner resume {run}$", listed, re.MULTILINE), listed
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert sorted(made.lines(), key=int) == numbers(3000)


@pytest.mark.slow
def test_what_has_changed_is_told_and_secrets_are_not_kept(project: Any) -> None:
    text = '[params]\ntoken = { default = "none", secret = true, env = "SECRET_TOKEN" }\nn = { default = 3000 }\n'
    made = Durable(
        project, (text + line(more='env = { TOKEN = "${token}" }')).replace("count = 3000", 'count = "${n}"'), 3000
    )
    running = made.project.start("--progress", "none", "-p", "token=swordfish", "-p", "n=4000", "--halt", "7")
    wait_for(lambda: made.size_of("out.txt") > 100)
    running.process.kill()
    running.finish()
    assert not any(b"swordfish" in path.read_bytes() for path in made.path.rglob("*") if path.is_file())
    refused = made.go("resume")
    assert refused.exit == 3, refused
    assert "was given a secret, and secrets are not kept: give it again with -p token=VALUE, or in SECRET_TOKEN" in (
        refused.err
    )
    file, plugin = made.path / "tasks.toml", made.path / "plugins/jobs.py"
    file.write_text(file.read_text().replace("workers = 2", "workers = 3"))
    plugin.write_text(plugin.read_text() + "\n# another\n")
    given = made.project.start("--progress", "none", "-p", "token=pikefish", verb="resume")
    wait_for(lambda: len(made.lines("executed")) > 500)
    given.process.send_signal(signal.SIGINT)
    outcome = given.finish()
    assert "changed since the last time: tasks.work.workers is 3 (was 2); plugins/jobs.py\n" in outcome.err
    assert not any(b"fish" in path.read_bytes() for path in (made.path / ".runner").rglob("*") if path.is_file())
    outcome = made.project.run("--progress", "none", verb="resume", env={"SECRET_TOKEN": "codfish"})
    assert outcome.exit == 0, outcome
    assert "changed" not in outcome.err
    assert sorted(made.lines(), key=int) == numbers(4000)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["run", slow("resume")])
def test_a_run_goes_on_in_the_folder_in_which_it_was_begun(project: Any, verb: str) -> None:
    made = Durable(project, line(), 3000)
    made.go("run", lambda: made.size_of("out.txt") > 100)
    other = made.path / "other"
    other.mkdir()
    args = ("../tasks.toml", "--resume") if verb == "run" else ("--state", "../.runner")
    outcome = made.project.run("-C", other, *args, "--events", "events", "--progress", "none", verb=verb)
    assert outcome.exit == 0, outcome
    assert sorted(made.lines(), key=int) == numbers(3000)
    assert [path.name for path in other.iterdir()] == ["events"]


def test_no_durable_on_the_command_line_keeps_no_ledger(project: Any) -> None:
    made = Durable(project, line(count=10), 10)
    outcome = made.project.run("--no-durable", "--no-record")
    assert outcome.exit == 0
    assert not made.runs()
    assert not (made.path / ".runner").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
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
        drains = ["--drain"] if draw.random() < 0.3 and verb == "resume" else []
        outcome = made.go(verb, lambda until=until: time.monotonic() > until, signal.SIGKILL, *drains)
        if outcome.exit > 0 or (outcome.exit == 0 and not made.runs()):
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
