"""How far a run is: the model, the lines for people and programs, and the live frames at any size."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runner import events
from runner.report.displays import JsonDisplay, PlainDisplay, progress_json
from runner.report.live import LiveRenderer
from runner.report.panel import TerminalPanel
from runner.report.progress import ProgressSnapshot, ProgressTracker, QueueRow, StuckWorker, TaskRow

PLAN = events.RunPlan(
    tasks=(
        events.TaskPlanned("read", "read", "thread", ("read",), (), ("lines",)),
        events.TaskPlanned("count", "count", "process", ("c-1", "c-2"), ("lines",)),
    ),
    queues=(events.QueuePlanned("lines", 10),),
)
STARTED = events.RunStarted(100.0, "run-1", "Words", ("read", "count"), PLAN)


def progress(at: float, read: int, done: int, dead: int = 0, queue: int = 3) -> events.Progress:
    tasks = {
        "read": events.TaskCounts(0, 0, 0, 0, read, 1, 1),
        "count": events.TaskCounts(done, dead, 0, 0, 0, 1, 2, item=1),
    }
    return events.Progress(at, tasks, {"lines": queue})


def told(*happened: events.Event) -> ProgressSnapshot:
    model = ProgressTracker()
    for event in (STARTED, *happened):
        model.handle_event(event)
    return model.take_snapshot()


def test_counts_and_rates_of_the_last_seconds() -> None:
    happened = [progress(100.0 + at, 10 * at, 8 * at if at < 20 else 160 + 2 * (at - 20)) for at in range(40)]
    snapshot = told(*happened)
    read, count = snapshot.tasks
    assert (snapshot.seconds, snapshot.items_read, snapshot.title) == (39.0, 390, "Words")
    assert (read.done, read.rate, read.outputs) == (390, 10.0, ("lines",))
    assert (count.done, count.rate, count.counts.item, count.counts.executing) == (198, 2.0, 1, 1)
    assert snapshot.queues == {"lines": QueueRow("lines", 3, 10, 1.5)}
    assert (snapshot.total, snapshot.eta, snapshot.done_share) == (None, None, None)


def test_before_anything_is_known() -> None:
    assert told() == ProgressSnapshot("Words", 0.0)
    assert told(progress(100.0, 0, 0)).tasks[0].rate == 0.0


def test_how_long_still_when_the_source_tells() -> None:
    happened: list[events.Event] = []
    for at in range(1, 20):
        happened += [events.WorkerProgress(100.0 + at, "read", "read", 5.0 * at, 200.0), progress(100.0 + at, at, at)]
    snapshot = told(*happened)
    assert (snapshot.done, snapshot.total, snapshot.done_share) == (95.0, 200.0, 0.475)
    assert snapshot.eta == pytest.approx(21.0)
    assert told(*happened, events.RunStopping(120.0, "Ctrl-C", 130.0)).eta is None
    assert told(*happened[:2]).eta is None


def test_a_total_is_not_guessed() -> None:
    other = events.WorkerProgress(101.0, "count", "c-1", 5.0, 10.0)
    assert told(other, progress(101.0, 1, 1)).total is None
    unknown = events.WorkerProgress(101.0, "read", "read", 5.0, None)
    assert told(unknown, progress(101.0, 1, 1)).done_share is None


def test_a_run_that_stops_says_so() -> None:
    assert told(progress(101.0, 1, 1), events.RunStopping(102.0, "Ctrl-C", 112.0)).stop_reason == "Ctrl-C"


# -- lines -------------------------------------------------------------------------------------


class Printer:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def print_message(self, text: str) -> None:
        self.lines.append(text)


def test_plain_says_nothing_of_a_short_run_and_then_a_line_every_ten_seconds() -> None:
    printer = Printer()
    display = PlainDisplay(printer)  # type: ignore[arg-type]
    for event in (STARTED, *(progress(100.0 + at / 4, at, at) for at in range(39))):
        display.handle_event(event)
    assert printer.lines == []
    for at in range(39, 4 * 60):
        display.handle_event(progress(100.0 + at / 4, at, at, dead=at // 100))
    assert [line.rpartition("s  read")[0] for line in printer.lines] == [
        "Words  10",
        "Words  20",
        "Words  30",
        "Words  40",
        "Words  50",
    ]
    assert printer.lines[0] == "Words  10s  read 40 (4/s)  count 40 (4/s)"
    assert printer.lines[-1].endswith("  2 dead")


def test_plain_says_each_tenth() -> None:
    printer = Printer()
    display = PlainDisplay(printer)  # type: ignore[arg-type]
    display.handle_event(STARTED)
    for at in range(4 * 40):
        display.handle_event(events.WorkerProgress(100.0 + at / 4, "read", "read", at, 200.0))
        display.handle_event(progress(100.0 + at / 4, at, at))
    shares = [line.split()[2] for line in printer.lines]
    assert shares[:5] == ["20%", "30%", "40%", "50%", "60%"]


def test_json_is_an_object_a_second() -> None:
    printer = Printer()
    display = JsonDisplay(printer)  # type: ignore[arg-type]
    for event in (STARTED, *(progress(100.0 + at / 4, at, at) for at in range(41))):
        display.handle_event(event)
    found = [json.loads(line) for line in printer.lines]
    assert [each["seconds"] for each in found] == list(range(11))
    assert found[-1]["progress"] == "run-1"
    assert found[-1]["tasks"]["count"] == {
        "state": "running", "executing": 1, "item": 1, "room": 0, "turn": 0, "done": 40, "rate": 4.0, "dead": 0,
        "dropped": 0, "repeated": 0,
    }  # fmt: skip
    waiting = {"length": 3, "size": 10, "wait": 0.75, "oldest": None, "dropped": 0}
    assert found[-1]["queues"] == {"lines": waiting}


# -- frames ------------------------------------------------------------------------------------

names = st.text(min_size=1, max_size=50)
counts = st.integers(0, 10**12)
states = st.sampled_from(["waiting", "starting", "running", "ok", "failed", "skipped"])
queue_names = st.lists(st.sampled_from(["a", "b", "長い名前の列", "c\x1b[31m"]), max_size=3).map(tuple)
task_counts = st.builds(events.TaskCounts, *[counts] * 11)
rows = st.builds(TaskRow, names, states, task_counts, counts, st.floats(0, 1e12), queue_names)
snapshots = st.builds(
    ProgressSnapshot,
    names,
    st.floats(0, 1e7),
    st.lists(rows, max_size=45).map(tuple),
    st.just({name: QueueRow(name, 7, 10) for name in ("a", "長い名前の列", "c\x1b[31m")} | {"b": QueueRow("b", 5)}),
    counts,
    counts,
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(0, 1e9),
    st.text(max_size=40),
)


@examples(40, 150)
@given(snapshots, st.integers(1, 220), st.integers(1, 60))
def test_a_frame_fits_any_terminal(snapshot: ProgressSnapshot, columns: int, lines: int) -> None:
    frame = LiveRenderer(color=False).render_frame(snapshot, columns, lines)
    assert len(frame) <= max(4, lines - 1)
    for text, width in frame:
        assert cell_len(text) == width <= max(20, columns) - 1
        assert text.isprintable()


@pytest.mark.parametrize("color", [True, False])
def test_colour_only_where_it_is_wanted(color: bool) -> None:
    snapshot = told(progress(101.0, 1, 1))
    text = "\n".join(line for line, _ in LiveRenderer(color=color).render_frame(snapshot, 80, 24))
    assert ("\x1b[" in text) is color
    plain = "\n".join(line for line, _ in LiveRenderer(color=False).render_frame(snapshot, 80, 24))
    assert plain == (
        "Words  1s  1 read\n"
        "task              busy wait room      done     rate   dead again\n"
        "read     running     1    0    0         1\n"
        "  lines  [███████▎                ] 3 of 10\n"
        "count    running     1    1    0         1"
    )


def frame_of(queue: QueueRow, columns: int = 100) -> list[str]:
    tasks = (TaskRow("read", "running", progress(1.0, 1, 1).tasks["read"], outputs=("lines",)),)
    snapshot = ProgressSnapshot("T", 9.0, tasks, {"lines": queue})
    return [line for line, _ in LiveRenderer(color=False).render_frame(snapshot, columns, 24)][3:]


def test_a_queue_says_what_was_dropped_how_long_the_oldest_waits_and_which_bucket_holds_it_up() -> None:
    stuck = events.FullestBucket(5, 128, 700, 31.0)
    [line] = frame_of(QueueRow("lines", 990, 1000, 0.2, 0.4))
    assert line.endswith("990 of 1,000")
    full = QueueRow("lines", 990, 1000, 80.0, 31.0, 12, stuck)
    line, last = frame_of(full, 140)
    assert line.endswith("990 of 1,000, 12 dropped, oldest 31s, about 1m20s to wait")
    assert last == "lines: 700 of 990 wait in bucket 5 of 128, the first for 31s"
    assert frame_of(full, 80)[0].endswith(", 12 dropped, oldest 31s")
    for bucket in (events.FullestBucket(5, 128, 30, 31.0), events.FullestBucket(5, 128, 700, 0.1)):  # it limits nothing
        assert len(frame_of(replace(full, fullest=bucket), 140)) == 1


def test_the_worker_that_has_been_at_one_item_for_long_is_named_with_its_process_and_machine() -> None:
    spent = events.Spent()
    workers = tuple(
        events.WorkerNow(f"c-{number}", "executing", spent, 19228 + number, item_age=age, node=node)
        for number, (age, node) in enumerate([(6.0, ""), (65.0, "far"), (None, ""), (1.0, "")])
    )
    snapshot = told(replace(progress(101.0, 1, 1), workers={"count": workers}))
    assert snapshot.longest == StuckWorker("count", "c-1", "19229@far", 65.0)
    [*_, last] = LiveRenderer(color=False).render_frame(snapshot, 80, 24)
    assert last[0] == "c-1 (19229@far) has been at one item for 1m05s"
    assert json.loads(progress_json("run-1", snapshot))["longest"]["process"] == "19229@far"
    assert told(replace(progress(101.0, 1, 1), workers={"count": workers[2:]})).longest is None


def test_what_queues_drop_is_in_the_heading() -> None:
    snapshot = told(replace(progress(101.0, 1, 1), dropped={"lines": 7}, oldest={"lines": 2.5}))
    assert (snapshot.dropped, snapshot.queues["lines"].oldest) == (7, 2.5)
    assert "7 dropped" in LiveRenderer(color=False).render_frame(snapshot, 80, 24)[0][0]


def test_forty_tasks_in_twenty_four_lines() -> None:
    counts = events.TaskCounts(0, 0, 0, 0, 0, 0, 0)
    tasks = [TaskRow(f"t{at}", "ok" if at < 30 else "running", counts, outputs=("a",)) for at in range(40)]
    frame = LiveRenderer(color=False).render_frame(
        ProgressSnapshot("T", 1.0, tuple(tasks), {"a": QueueRow("a", 1)}), 80, 24
    )
    shown = [line.split()[0] for line, _ in frame[2:]]
    assert len(frame) <= 21
    assert shown[-1] == "…"
    assert shown[:-1] == [f"t{at}" for at in (*range(8), *range(30, 40))]
    assert frame[-1][0] == "… 22 more"


def test_what_was_drawn_is_taken_away_wherever_the_terminal_has_wrapped_it(monkeypatch: pytest.MonkeyPatch) -> None:
    size = [80]
    monkeypatch.setattr("runner.report.panel.os.get_terminal_size", lambda _: _Size(size[0]))
    panel = TerminalPanel(lambda columns, lines: [("x" * 50, 50), ("y" * 10, 10)], 2)
    assert panel.erase_sequence() == b""
    assert panel.draw_sequence() == b"x" * 50 + b"\x1b[K\n" + b"y" * 10 + b"\x1b[K\n\x1b[J"
    assert panel.draw_sequence().startswith(b"\r\x1b[2Ax")
    size[0] = 20
    assert panel.erase_sequence() == b"\r\x1b[4A\x1b[J"
    assert panel.erase_sequence() == b""


def test_after_a_stop_nothing_of_the_shells_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("runner.report.panel.time.monotonic", lambda: now[0])
    panel = TerminalPanel(lambda columns, lines: [("x", 1)], 2)
    panel.draw_sequence()
    now[0] += 60.0
    assert panel.erase_sequence() == b""


class _Size:
    def __init__(self, columns: int) -> None:
        self.columns, self.lines = columns, 24


def test_without_a_terminal_a_size_is_assumed(tmp_path: Any) -> None:
    seen = []
    with (tmp_path / "file").open("w") as file:
        TerminalPanel(lambda columns, lines: seen.append((columns, lines)) or [], file.fileno()).draw_sequence()
    assert seen == [(80, 24)]
