"""The balance of a run that goes on: it adds up at every moment, and what it says last is how the run ends."""

from __future__ import annotations

import json
from typing import Any

from runner import events
from runner.report import page
from runner.report.progress import balance_so_far
from runner.report.record_builder import RecordBuilder

PLAN = events.RunPlan(
    tasks=(
        events.TaskPlanned("read", "read", "thread", ("read",), (), ("a",)),
        events.TaskPlanned("split", "split", "thread", ("split",), ("a",), ("b",), dead="bad"),
        events.TaskPlanned("keep", "keep", "thread", ("keep",), ("b",)),
        events.TaskPlanned("mend", "mend", "thread", ("mend",), ("bad",)),
    ),
    queues=tuple(events.QueuePlanned(name, 10) for name in ("a", "b", "bad")),
)


def counts(done: int = 0, dead: int = 0, sent: int = 0) -> events.TaskCounts:
    return events.TaskCounts(done, dead, 0, 0, sent, 0, 1)


def test_what_is_under_way_is_what_is_not_yet_counted_elsewhere() -> None:
    tasks = {"read": counts(sent=10), "split": counts(6, 1, 18), "keep": counts(15), "mend": counts(1)}
    now = events.Progress(1.0, tasks, {"a": 2, "b": 3, "bad": 0}, dropped={"a": 1})
    found = balance_so_far(PLAN, now)
    assert (found.read, found.made, found.done, found.dead, found.dropped) == (10, 12, 15, 1, 1)
    assert found.left == 10 + 12 - 15 - 1 - 1
    assert found.missing == 0


def test_the_page_of_a_run_that_goes_on_says_only_what_is_known() -> None:
    builder = RecordBuilder()
    builder.handle_event(events.RunStarted(0.0, "run", "Title", ("read", "split"), PLAN))
    tasks = {"read": counts(sent=1000), "split": counts(600, 0, 600), "keep": counts(600), "mend": counts()}
    for at in (1.0, 2.0):
        builder.handle_event(events.Progress(at, tasks, {"a": 400, "b": 0, "bad": 0}, oldest={"a": 12.4}))
    record = builder.build_record()
    going = page.render_page(record, live=True, goes_on=True)
    assert ">going on<" in going
    assert "under way</dt><dd>400<" in going
    assert "<td>12.4s</td>" in going
    assert "(0 in" not in going
    assert "400 waiting" in going
    assert ">was killed<" in page.render_page(record, live=True, goes_on=False)
    assert "going on, or was killed" in page.render_page(record)


def test_the_last_progress_of_a_run_adds_up_as_its_end_does(project: Any) -> None:
    work = """
        from runner import Reject, task

        @task
        def split(item):
            if item % 10 == 3:
                raise Reject("three")
            yield from range(item % 4)

        @task
        def keep(item):
            pass
    """
    file = """
        [queues]
        a = {}
        b = { size = 5, full = "drop-new" }
        bad = {}
        [tasks.read]
        call = "std.range"
        args = [0, 300]
        outputs = "a"
        mode = "thread"
        [tasks.split]
        inputs = "a"
        outputs = "b"
        dead = "bad"
        mode = "thread"
        [tasks.keep]
        inputs = "b"
        mode = "thread"
        [tasks.mend]
        call = "keep"
        inputs = "bad"
        mode = "thread"
    """
    made = project({"tasks.toml": file, "plugins/work.py": work})
    outcome = made.run("--events", "events.jsonl", "--json", "--progress", "none")
    assert outcome.exit == 4, outcome
    lines = [json.loads(line) for line in (made.path / "events.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    last = [line for line in lines if line["event"] == "Progress"][-1]
    tasks = {name: events.TaskCounts(**found) for name, found in last["tasks"].items()}
    found = balance_so_far(PLAN, events.Progress(0.0, tasks, {}, dropped=last["dropped"]))
    balance = json.loads(outcome.out)["balance"]
    assert (found.read, found.done, found.dead, found.dropped) == tuple(
        balance[name] for name in ("read", "done", "dead", "dropped")
    )
    assert (found.made, found.left) == (balance["made"], 0)
