"""A range of workers, and the changes of their number, wherever a run is shown."""

from __future__ import annotations

import json
from dataclasses import replace

from record_loads import Did, line

from runner import events
from runner.report.bottleneck import find_bottleneck
from runner.report.displays import progress_json
from runner.report.live import LiveRenderer
from runner.report.progress import ProgressTracker
from runner.report.record_builder import MAX_CHANGES, RecordBuilder

NAMES = tuple(f"ask-{at}" for at in range(1, 17))
PLAN = events.RunPlan(tasks=(events.TaskPlanned("ask", "ask", "thread", NAMES, ("q",), least_workers=2),))
STARTED = events.RunStarted(0.0, "run", "Shop", ("ask",), PLAN)


def told(changes=()):
    tracker = ProgressTracker()
    counts = events.TaskCounts(5, 0, 0, 0, 0, 9, 9, wanted=9)
    for event in (STARTED, *changes, events.Progress(1.0, {"ask": counts}, {"q": 3})):
        tracker.handle_event(event)
    return tracker


def test_the_live_display_has_the_number_behind_the_task():
    frame = LiveRenderer(color=False).render_frame(told().take_snapshot(), 80, 24)
    (row,) = [text for text, _ in frame if text.startswith("ask")]
    assert row.endswith("9 of 2..16")
    assert all(width < 80 for _, width in frame)


def test_the_progress_for_programs_has_it():
    found = json.loads(progress_json("run", told().take_snapshot()))
    assert found["tasks"]["ask"]["wanted"] == 9


def test_the_record_has_each_change_and_not_only_them():
    builder = RecordBuilder()
    builder.handle_event(STARTED)
    for at in range(3 * MAX_CHANGES):
        builder.handle_event(events.WorkersChanged(float(at), "ask", 2, 3, f"items waited {at}"))
    builder.handle_event(events.WorkerDied(500.0, "ask", "ask-1", 7, "killed by SIGKILL"))
    moments = builder.build_record().moments
    assert moments[0].text == "2 workers (were 3): items waited 0"
    assert sum(each.kind == "workers" for each in moments) == MAX_CHANGES
    assert any(each.kind == "death" for each in moments)
    assert sum(each.count for each in moments if each.kind not in {"workers", "death"}) == 2 * MAX_CHANGES


def with_range(busy, present, most=16, **record):
    """A pipeline whose second task had so many of its workers for the whole time, and the others never."""
    made = line(Did("read", 0.02, room=0.9), Did("ask", busy, workers=present), Did("save", 0.03), **record)
    read, ask, save = made.plan.tasks
    names = tuple(f"ask-{at}" for at in range(1, most + 1))
    plan = replace(made.plan, tasks=(read, replace(ask, workers=names, least_workers=2), save))
    return replace(made, plan=plan)


def test_the_sentence_of_a_range_that_was_used_up_names_a_larger_one():
    found = find_bottleneck(with_range(0.97, 16))
    assert found.sentence.startswith('ask limits the run: 97 % busy in 16.0 of 2..16 workers; workers = "2..20"')
    assert found.workers == 20


def test_the_sentence_of_a_range_that_was_not_used_up_promises_nothing():
    found = find_bottleneck(with_range(0.97, 5))
    assert found.sentence == "ask limits the run: 97 % busy in 5.0 of 2..16 workers"
    assert found.workers is None
