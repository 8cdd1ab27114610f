"""A run's record: the same from its events as they come and from a file of them, and bounded however long the run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner import events
from runner.errors import UsageError
from runner.report import journal
from runner.report import record_builder as folding
from runner.report.record import RunRecord, parse_record
from runner.report.record_builder import MAX_INTERVALS, MAX_WORKER_ROWS, RecordBuilder

PLAN = events.RunPlan(
    "tasks.toml",
    "[tasks.a]",
    (
        events.TaskPlanned("make", "make", "process", ("make",), (), ("q",)),
        events.TaskPlanned("take", "take", "thread", ("t-1", "t-2"), ("q",)),
    ),
    (events.QueuePlanned("q", 10),),
    events.Machine("Linux", "3.11", "0.1", 2, 1 << 30),
)
STARTED = events.RunStarted(100.0, "run-1", "Title", ("make", "take"), PLAN, 1_700_000_000.0, 42)
ENDED = events.RunEnded(200.0, "run-1", 0, 100.0, 5, 0, 5, 0, 0, 0, 0)


def progress(at: float, done: int = 0, queue: int = 0, names: tuple[str, ...] = ("t-1", "t-2")) -> events.Progress:
    gone = at - 100.0
    worker = events.Spent(executing=gone / 4, item=gone / 2, turn=gone / 4)
    counts = events.TaskCounts(done, 0, 0, 0, done, 1, 2)
    shown = tuple(events.WorkerNow(name, "executing", worker) for name in names)
    return events.Progress(at, {"make": counts, "take": counts}, {"q": queue}, {"take": shown})


def folded(*happened: events.Event) -> RunRecord:
    fold = RecordBuilder()
    for event in happened:
        fold.handle_event(event)
    return fold.build_record()


# -- from a file ------------------------------------------------------------------------------

texts = st.text(max_size=30)
numbers = st.integers(0, 10**12)
times = st.floats(100.0, 10_000.0)
happenings = st.one_of(
    st.builds(progress, times, numbers, numbers),
    st.builds(
        events.ItemFailed, times, texts, texts, texts, texts, texts, numbers,
        st.sampled_from(["again", "dead", "dropped", "fatal"]), texts, st.integers(1, 9),
    ),
    st.builds(events.WorkerDied, times, texts, texts, numbers, texts, texts, st.booleans()),
    st.builds(events.ItemTimedOut, times, texts, texts, numbers, st.floats(0, 1e6)),
    st.builds(events.Notice, times, texts),
    st.builds(events.TaskEnded, times, texts, st.sampled_from(["ok", "failed", "skipped"]), texts),
    st.builds(events.RunStopping, times, texts, times),
    st.builds(events.WorkerProgress, times, texts, texts, st.floats(0, 1e9), st.none() | st.floats(0, 1e9)),
)  # fmt: skip


@examples(25, 60)
@given(st.lists(happenings, max_size=30), st.booleans())
def test_a_file_of_events_gives_the_same_record(
    tmp_path_factory: pytest.TempPathFactory, happened: Any, ends: bool
) -> None:
    path = str(tmp_path_factory.mktemp("events") / "events.jsonl")
    all_ = [STARTED, *sorted(happened, key=lambda event: event.at), *([ENDED] if ends else [])]
    writer = journal.EventJournal(path)
    for event in all_:
        writer.handle_event(event)
    writer.close()
    assert writer.write_error == ""
    read = list(journal.read(path))
    assert read == all_
    record = folded(*all_)
    assert folded(*read) == record
    assert parse_record(journal.dump_json(record), "here") == record


def test_every_kind_of_event_can_be_written_and_read(tmp_path: Any) -> None:
    kinds = [
        kind for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event
    ]  # fmt: skip
    assert len(kinds) > 12
    summary = events.TaskSummary(
        "a", "ok", times=((0.5, 3),), workers=(events.WorkerNow("w", "ended", events.Spent()),)
    )
    full = replace(ENDED, tasks=(summary,), queues=(events.QueueSummary("q", 5, 5),), reasons=("why",))
    stack = events.Stack(1.0, "a", "b", 3, "text")
    more = [events.TaskStarted(1.0, "a", ("b", "c")), events.WorkerReady(1.0, "a", "b", 3), stack]
    more += [events.WorkerEnded(2.0, "a", "b", "7"), events.RunKilled(2.0, "why")]
    path = tmp_path / "events.jsonl"
    writer = journal.EventJournal(str(path))
    for event in (STARTED, *more, full):
        writer.handle_event(event)
    writer.close()
    assert list(journal.read(str(path))) == [STARTED, *more, full]
    first = json.loads(path.read_text().splitlines()[0])
    assert first["version"] == journal.EVENTS_VERSION


# -- what is in it ----------------------------------------------------------------------------


def test_before_anything_and_while_it_goes_on() -> None:
    assert folded() == RunRecord("", "")
    going = folded(STARTED, progress(150.0, done=7, queue=3), progress(160.0, done=9, queue=1))
    assert (going.exit_code, going.seconds, going.balance.read) == (None, 60.0, 9)
    assert [(task.name, task.done, task.how) for task in going.tasks] == [
        ("make", 9, "running"),
        ("take", 9, "running"),
    ]
    assert [(queue.left, queue.most) for queue in going.queues] == [(1, 3)]
    assert (going.run, going.pid, going.began) == ("run-1", 42, 1_700_000_000.0)


def test_failures_are_grouped_and_the_first_is_told_whole() -> None:
    def failed(number: int, error: str, verdict: str = "dead") -> events.ItemFailed:
        return events.ItemFailed(110.0 + number, "up", f"w{number}", f"1.{number}", error, f"tb {number}", 1, verdict)

    happened = [failed(at, f"OSError: number {at}") for at in range(37)]
    happened += [failed(40, "ValueError: x"), failed(41, "OSError: again", "again")]
    groups = folded(STARTED, *happened).failures
    assert [(group.kind, group.verdict, group.count) for group in groups] == [
        ("OSError", "dead", 37),
        ("ValueError", "dead", 1),
        ("OSError", "again", 1),
    ]
    assert (groups[0].first_item, groups[0].traceback, groups[0].worker) == ("1.0", "tb 0", "w0")


def test_what_is_kept_is_bounded() -> None:
    fold = RecordBuilder()
    fold.handle_event(STARTED)
    for at in range(5000):
        fold.handle_event(events.ItemFailed(101.0, "t", "w", "i", f"Error{at}: x", "y" * 100_000, 1, "dead"))
        fold.handle_event(events.WorkerDied(101.0 + at, "t", "w", at, f"why {at}"))
    record = fold.build_record()
    assert len(record.failures) <= folding.MAX_FAILURE_KINDS + 4
    assert sum(group.count for group in record.failures) == 5000
    assert len(record.moments) <= folding.MAX_INCIDENTS + 2
    assert sum(moment.count for moment in record.moments) == 5000
    assert len(journal.dump_json(record)) < 4_000_000


def test_the_same_thing_again_is_counted() -> None:
    notice = events.Notice(110.0, "slow disk")
    record = folded(
        STARTED, notice, replace(notice, at=111.0), replace(notice, at=112.0), events.Notice(113.0, "other")
    )
    assert [(moment.text, moment.count) for moment in record.moments] == [("slow disk", 3), ("other", 1)]


# -- over time --------------------------------------------------------------------------------


@pytest.mark.parametrize("moments", [0, 1, 2, 3, 399, 400, 401, 799, 800, 1601, 4_000])
def test_intervals_are_few_and_add_up(moments: int) -> None:
    every = 0.25
    happened = [progress(100.0 + every * (at + 1), done=at, queue=at % 7) for at in range(moments)]
    series = folded(STARTED, *happened, ENDED).series
    assert len(series.at) <= MAX_INTERVALS
    assert len(series.at) >= min(moments, MAX_INTERVALS // 2)
    for rows in (
        *series.done.values(),
        *series.sent.values(),
        *series.queues.values(),
        *series.workers.get("take", {}).values(),
    ):
        assert len(rows) == len(series.at)
    assert list(series.at) == sorted(set(series.at))
    for shares in series.workers.get("take", {}).values():
        for share in shares:
            assert sum(share) == pytest.approx(1.0, abs=0.01)
    if moments:
        assert series.done["take"][-1] == moments - 1
        assert math.isclose(series.at[-1], every * moments)
        assert max(series.queues["q"]) == min(6, moments - 1)


def test_a_worker_that_begins_late_waited_for_its_turn() -> None:
    early, late = progress(110.0, names=("t-1",)), progress(120.0, names=("t-1", "t-2"))
    rows = folded(STARTED, early, late).series.workers["take"]
    assert rows["t-2"][0] == (0, 0, 0, 0, 0, 1.0, 0)
    assert len(rows["t-2"]) == 2


def test_no_more_rows_than_a_page_can_show() -> None:
    names = tuple(f"w{at}" for at in range(MAX_WORKER_ROWS + 44))
    record = folded(STARTED, progress(110.0, names=names), progress(120.0, names=names))
    assert len(record.series.workers["take"]) == MAX_WORKER_ROWS
    assert [moment.count for moment in record.moments if moment.kind == "more"] == [44]


# -- what cannot be read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it holds no events of a run"),
        ("nonsense\n", "it holds no events of a run"),
        ("[1]\n", "it holds no events of a run"),
        ('{"runner": "9", "version": 99}\n', "events of version 99, and this runner knows 1: use a newer one"),
        ('{"runner": "9", "version": 1}\n{"event": "Notice", "at": "x"}\n', ":2: not a valid Notice event: "),
        ('{"runner": "9", "version": 1}\nnonsense\n', "it holds no events of a run"),
    ],
)
def test_a_file_without_events(tmp_path: Any, text: str, says: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        list(journal.read(str(path)))


def test_events_of_a_newer_runner_and_a_line_that_was_cut_off_are_left_out(tmp_path: Any) -> None:
    path = tmp_path / "events.jsonl"
    lines = ['{"runner": "9", "version": 1}', '{"event": "Miracle", "at": 1}', '{"event": "os", "at": 1}']
    path.write_text("\n".join([*lines, journal.event_line(events.Notice(2.0, "x")), '{"event": "Not']))
    assert list(journal.read(str(path))) == [events.Notice(2.0, "x")]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"run": 1}', '{"run": "a", "title": "b", "seconds": []}', "x" * 10_000]
)
def test_no_record(text: str) -> None:
    with pytest.raises(UsageError, match="not a record of a run"):
        parse_record(text, "record.json")


def test_a_record_of_a_newer_runner() -> None:
    with pytest.raises(UsageError, match="a record of version 7, and this runner knows 1: use a newer one"):
        parse_record('{"version": 7}', "record.json")
