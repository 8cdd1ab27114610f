"""Two runs side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import past_runs

from runner.events import NodeSummary
from runner.report.compare import FigurePair, compare_records, comparison_as_json, comparison_text
from runner.report.record import RunRecord


def faster():
    before = past_runs.past_run(seconds=120.0, run="20261122-090000")
    after = past_runs.past_run(seconds=60.0)
    resolved = after.plan.resolved.replace("workers = 2", "workers = 3")
    return before, replace(
        after, plan=replace(after.plan, resolved=resolved, machine=replace(after.plan.machine, cores=16))
    )


def test_what_is_different():
    found = compare_records(*faster())
    assert found.run_figures[0] == FigurePair("seconds", 120.0, 60.0, "s")
    assert found.run_figures[1].cell_texts == ("83/s", "166/s", "2 times")
    assert found.changed_lines == ("  [tasks.read]", "- workers = 2", "+ workers = 3")
    assert found.notes == ("cores: 8 → 16",)


def test_as_text():
    lines = comparison_text(compare_records(*faster())).split("\n")
    assert lines[0] == "20261122-090000 (Thumbnails) → 20261123-101500 (Thumbnails)"
    assert lines[2:5] == [
        "            before   after   change",
        "seconds      2m00s   1m00s    -50 %",
        "throughput    83/s   166/s  2 times",
    ]
    assert lines[-3:] == ["  [tasks.read]", "- workers = 2", "+ workers = 3"]


def test_as_json():
    found = json.loads(json.dumps(comparison_as_json(compare_records(*faster()))))
    assert found["whole"]["seconds"] == {"before": 120.0, "after": 60.0, "ratio": 0.5}
    assert found["tasks"]["resize"]["busy"]["after"] == 0.9
    assert (found["before"]["run"], found["after"]["run"]) == ("20261122-090000", "20261123-101500")


def test_tasks_that_only_one_has():
    before, after = faster()
    found = compare_records(replace(before, tasks=before.tasks[:1]), replace(after, tasks=after.tasks[1:2]))
    assert [pair.before for pair in found.task_figures["resize"]] == [None] * 5
    assert [pair.after for pair in found.task_figures["read"]] == [None] * 5
    assert "resize" in comparison_text(found)


def test_tables_that_were_added_are_named_once():
    before, _ = faster()
    more = before.plan.resolved + "\n[queues.new]\nsize = 3\n"
    found = compare_records(before, replace(before, plan=replace(before.plan, resolved="# other, resolved\n" + more)))
    assert found.changed_lines == ("+ [queues.new]", "+ size = 3")


def test_runs_of_which_nothing_is_known():
    assert "a (t) → b (u)" in comparison_text(compare_records(RunRecord("a", "t"), RunRecord("b", "u")))


def test_foreign_texts_do_not_steer_a_terminal():
    shown = comparison_text(compare_records(past_runs.hostile(), past_runs.hostile()))
    assert not [char for char in shown if not char.isprintable() and char != "\n"]


def test_machines_are_compared_where_there_are_some():
    before, after = faster()
    assert not [pair for pair in compare_records(before, after).run_figures if "node" in pair.label]
    nodes = (NodeSummary("n1", sent=1_000_000, received=50), NodeSummary("n2", sent=2_000_000))
    found = compare_records(before, replace(after, nodes=nodes))
    cells = {pair.label: pair.cell_texts for pair in found.run_figures}
    assert cells["nodes"] == ("0", "2", "")
    assert cells["sent to nodes"] == ("–", "3.0MB", "")
