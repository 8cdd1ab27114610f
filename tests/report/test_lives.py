"""A durable run that is cut short and goes on: one record, and one page, of all its lives."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import past_runs
import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner import events
from runner.report import earlier_lives, page, trace
from runner.report import record_builder as folding
from runner.report.displays import progress_json, progress_line
from runner.report.journal import dump_json
from runner.report.live import LiveRenderer
from runner.report.progress import ProgressTracker
from runner.report.record import RunRecord, parse_record
from runner.store.records import RECORD_FILE, RecordFile
from runner.store.run_lives import MAX_LIVES, add_life, encode_lives, end_life, read_lives
from runner.supervisor.outcome import describe_end

if TYPE_CHECKING:
    from pathlib import Path

RUN = "20261130-101500-0123456789abcdef"
PLAN = events.RunPlan(
    tasks=(
        events.TaskPlanned("make", "make", "process", ("make",), (), ("q",)),
        events.TaskPlanned("take", "take", "process", ("t-1", "t-2"), ("q",)),
    ),
    queues=(events.QueuePlanned("q", 10),),
)


class Lives:
    """A run that lives again and again; its record is written as `runs` has it written, its ledger is imagined."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state / "runs" / RUN / RECORD_FILE
        self.noted, self.done, self.clock = "[]", 0, 1_000.0

    def live(self, *, seconds: float = 30.0, rate: int = 10, ends: bool = True, pause: float = 100.0) -> RunRecord:
        """Live for so long; `ends`: not by a kill."""
        lives = add_life(read_lives(self.noted), self.clock, self.clock - pause, self.done)
        self.noted, began = encode_lives(lives), self.clock
        records = RecordFile(self.state, RUN)
        recorder = folding.Recorder(records, 20)
        recorder.handle_event(events.RunStarted(began, RUN, "Title", ("make", "take"), PLAN, began, 42, lives))
        start = self.done
        for step in range(int(seconds) * 4 + 1):
            recorder.handle_event(self.progress(began, step / 4))
            self.done = start + rate * (step + 1) // 4
        self.done = start + int(rate * seconds)
        recorder.handle_event(events.Notice(began + seconds, f"at {self.done}"))
        error = events.ItemFailed(began + seconds, "take", "t-1", "1.1", "OSError: x", "", 1, "again")
        recorder.handle_event(error)
        self.clock = began + seconds + pause
        if not ends:
            record = recorder.build_record()
            records.close()
            return record
        ended = self.ended(began + seconds, seconds)
        recorder.handle_event(ended)
        self.noted = encode_lives(end_life(lives, seconds, describe_end(ended)))
        return recorder.close(ended.exit_code)

    def progress(self, began: float, seconds: float) -> events.Progress:
        spent = events.Spent(executing=seconds / 2, item=seconds / 2)
        counts = events.TaskCounts(self.done, 0, 0, 0, self.done, 1, 2)
        shown = tuple(events.WorkerNow(name, "executing", spent) for name in ("t-1", "t-2"))
        return events.Progress(began + seconds, {"make": counts, "take": counts}, {"q": 3}, {"take": shown})

    def ended(self, at: float, seconds: float) -> events.RunEnded:
        workers = tuple(events.WorkerNow(name, "ended", events.Spent(executing=seconds), cpu=1.0) for name in ("t-1",))
        times = ((0.5, 8), (1.0, 2))
        take = events.TaskSummary(
            "take", "ok", taken=self.done, done=self.done, times=times, workers=workers, active=seconds, busy=0.5
        )
        return events.RunEnded(
            at, RUN, 130, seconds, self.done, 0, self.done, 0, 0, 0, 0, (take,), reasons=("Ctrl-C",), cpu=2.0
        )


def test_lives_are_put_one_behind_the_other(tmp_path: Path) -> None:
    made = Lives(tmp_path)
    for _ in range(3):
        record = made.live()
    assert record == parse_record(made.path.read_text(), "here")
    assert [(life.seconds, life.end, life.done_before) for life in record.lives] == [
        (30.0, "Ctrl-C", 0),
        (30.0, "Ctrl-C", 300),
        (30.0, "Ctrl-C", 600),
    ]
    assert (record.began, record.seconds, record.cpu) == (1_000.0, 90.0, 6.0)
    assert (record.balance.read, record.balance.done) == (900, 900)
    (take,) = record.tasks
    assert (take.times, take.active, take.busy) == (((0.5, 24), (1.0, 6)), 90.0, 0.5)
    assert (take.workers[0].spent.executing, take.workers[0].cpu) == (90.0, 3.0)
    assert [(each.kind, each.count) for each in record.failures] == [("OSError", 3)]
    told = [(moment.at, moment.kind, moment.text) for moment in record.moments]
    assert told == [
        (30.0, "notice", "at 300"),
        (30.0, "life", "life 2 begins with 300 items done; the one before it: Ctrl-C"),
        (60.0, "notice", "at 600"),
        (60.0, "life", "life 3 begins with 600 items done; the one before it: Ctrl-C"),
        (90.0, "notice", "at 900"),
    ]
    rates = page.throughput_plot(record)
    assert {round(rate) for rate in rates[0]["values"][1:]} <= set(range(13)), "no peak where a life begins"
    assert page.life_marks(record) == [[30.0, 2], [60.0, 3]]
    for shares in record.series.workers["take"].values():
        assert all(sum(share) == pytest.approx(1.0, abs=0.01) for share in shares)


def test_of_a_life_that_was_killed_the_last_written_record_is_known(tmp_path: Path) -> None:
    made = Lives(tmp_path)
    made.live(seconds=35.0, ends=False)
    record = made.live(seconds=5.0)
    first, second = record.lives
    assert first.end == "killed at an unknown moment after 35s"
    assert (second.done_before, second.end) == (350, "Ctrl-C")
    known = sum(at < 34.0 for at in record.series.at)
    assert record.series.at[known - 1] == 30.0, "it is written every ten seconds"
    assert record.series.at[known] == 35.0
    for shares in record.series.workers["take"].values():
        assert shares[known] == (0, 0, 0, 0, 0, 0, 1), "what its workers did then is not known"
        assert shares[known + 1][events.STATES.index("executing")] == pytest.approx(0.5, abs=0.01)
    (rates,) = [each["values"] for each in page.throughput_plot(record) if each["name"] == "take"]
    assert max(rates) < 15
    assert json.loads(trace.trace_json(record))["traceEvents"]


@pytest.mark.slow
def test_a_hundred_and_more_lives_are_bounded(tmp_path: Path) -> None:
    made, sizes = Lives(tmp_path), []
    for number in range(MAX_LIVES + 40):
        record = made.live(seconds=2.0, ends=bool(number % 3))
        sizes.append(made.path.stat().st_size)
    assert len(record.lives) == MAX_LIVES
    assert sum(life.count for life in record.lives) == MAX_LIVES + 40
    assert sum(life.seconds for life in record.lives) == pytest.approx(2.0 * (MAX_LIVES + 40))
    assert len(record.series.at) <= folding.MAX_INTERVALS
    assert len(record.moments) <= folding.MAX_INCIDENTS + 2
    assert max(sizes[MAX_LIVES:]) < 1.2 * sizes[MAX_LIVES]
    assert record.series.at[-1] == pytest.approx(record.seconds, abs=0.5)
    lengths = [after - before for before, after in zip((0.0, *record.series.at), record.series.at, strict=False)]
    assert max(lengths) < 0.05 * record.seconds, "the first lives are not lost for the last ones"
    text = page.render_page(record)
    assert "2 to 42</th>" in text
    assert len(text) < 1_000_000


@pytest.mark.slow
def test_the_earlier_life_of_a_long_run_stays_in_the_plot(tmp_path: Path) -> None:
    made = Lives(tmp_path)
    made.live(seconds=800.0)
    record = made.live(seconds=400.0)
    lengths = [after - before for before, after in zip((0.0, *record.series.at), record.series.at, strict=False)]
    assert max(lengths) < 12
    assert 150 <= len(lengths) <= folding.MAX_INTERVALS


EDITS: list[tuple[str, Any]] = [
    ("run", "another"),
    ("series", {"at": [5.0, 3.0]}),
    ("series", {"at": [0.0]}),
    ("series", {"at": [1e999]}),
    ("series", {"at": [1.0], "done": {"take": []}}),
    ("tasks", [{"name": "take", "how": "ok", "times": [[0.0, 3]]}]),
    ("tasks", [{"name": "take", "how": "ok", "times": [[-1.0, 3]]}]),
    ("tasks", [{"name": "take", "how": "ok", "times": [["x", 3]]}]),
    ("lives", 7),
    ("version", 99),
    ("moments", None),
]


@pytest.mark.parametrize(("key", "value"), EDITS)
def test_a_record_that_no_run_has_written_is_left_out(tmp_path: Path, key: str, value: Any) -> None:
    made = Lives(tmp_path)
    record = json.loads(dump_json(made.live()))
    text = json.dumps({**record, key: value}).replace("Infinity", "1e999")
    made.path.write_text(text)
    after = made.live()
    assert (len(after.lives), after.seconds, after.balance.done) == (2, 60.0, 600)
    notice, *_ = [moment for moment in after.moments if moment.kind == "notice"]
    assert notice.text.startswith("the record of the earlier lives cannot be read, and begins anew: ")
    assert parse_record(made.path.read_text(), "here") == after
    page.render_page(after)


@examples(8, 80)
@given(st.data())
def test_a_record_that_was_cut_or_overwritten_stops_nothing(tmp_path_factory: Any, data: Any) -> None:
    made = Lives(tmp_path_factory.mktemp("state"))
    made.live()
    whole = made.path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.binary(min_size=0, max_size=9))
    made.path.write_bytes(whole[:at] + other + (whole[at + len(other) :] if data.draw(st.booleans()) else b""))
    after = made.live()
    assert (len(after.lives), after.balance.done) == (2, 600)
    assert parse_record(made.path.read_text(), "here") == after
    page.render_page(after)


def test_lives_that_cannot_be_read_are_none() -> None:
    assert read_lives("[{]") == read_lives('[{"began": "x"}]') == read_lives(None) == ()


# -- while it goes on -------------------------------------------------------------------------


def test_displays_say_what_was_done_before() -> None:
    lives = (events.RunLife(1.0, 60.0, "Ctrl-C", 0), events.RunLife(100.0, done_before=8_685))
    tracker = ProgressTracker()
    tracker.handle_event(events.RunStarted(10.0, RUN, "Title", ("make", "take"), PLAN, lives=lives))
    tracker.handle_event(events.WorkerProgress(10.0, "make", "make", -1, 20_000))
    for step in range(9):
        counts = events.TaskCounts(8_685 + step, 0, 0, 0, 9_000 + 50 * step, 1, 1)
        worker = events.WorkerNow("make", "executing", events.Spent(), items=50 * step)
        tasks = {"make": counts, "take": counts}
        tracker.handle_event(events.Progress(10.0 + step, tasks, {"q": 0}, {"make": (worker,)}))
    snapshot = tracker.take_snapshot()
    assert (snapshot.life, snapshot.done_before) == (2, 8_685)
    assert (snapshot.done, snapshot.total) == (9_400, 20_000), "what the source has sent in all its lives"
    assert snapshot.eta == pytest.approx(10_600 / 50)
    assert "8,685 done before" in progress_line(snapshot)
    frame = LiveRenderer(color=False).render_frame(snapshot, 120, 30)
    assert "47% of 20,000" in frame[0][0]
    assert "8,685 done before" in frame[0][0]
    told = json.loads(progress_json(RUN, snapshot))
    assert (told["life"], told["done_before"]) == (2, 8_685)


def test_a_run_of_one_life_says_nothing_of_lives() -> None:
    record = replace(past_runs.past_run(), lives=(events.RunLife(1.0, 60.0, "ended"),))
    assert 'id="lives"' not in page.render_page(record)
    assert page.life_marks(record) == []


def test_what_a_life_ended_with_stays_text_on_the_page() -> None:
    lives = (events.RunLife(-1e300, 30.0, past_runs.HOSTILE * 1000), events.RunLife(1e300, 30.0, "ended"))
    text = page.render_page(replace(past_runs.past_run(), lives=lives))
    assert "<img" not in text
    assert len(text) < 1_000_000


def test_moments_in_the_middle_are_counted() -> None:
    moments = tuple(past_runs.past_run().moments[:1]) * 300
    kept = earlier_lives.EarlierLives(replace(past_runs.past_run(run=RUN), moments=moments), RUN)
    assert len(kept.incidents) == earlier_lives.MAX_EARLIER_INCIDENTS
    assert kept.untold == 200


def test_the_bottleneck_is_that_of_the_last_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunRecord] = []
    monkeypatch.setattr(folding, "find_bottleneck", seen.append)
    made = Lives(tmp_path)
    made.live()
    made.live(seconds=20.0)
    at_the_end = [record for record in seen if record.tasks[0].times]
    assert [(record.seconds, record.tasks[0].taken, record.tasks[0].times) for record in at_the_end] == [
        (30.0, 300, ((0.5, 8), (1.0, 2))),
        (20.0, 200, ((0.5, 8), (1.0, 2))),
    ]


def test_events_of_a_later_life_alone_make_a_record_that_begins_where_that_life_does(tmp_path: Path) -> None:
    made = Lives(tmp_path)
    made.live()
    made.path.unlink()
    record = made.live(seconds=10.0)
    assert (record.seconds, record.series.at[0], record.series.at[-1]) == (40.0, 30.0, 40.0)
    assert record.series.done["take"][0] == 300
    for shares in record.series.workers["take"].values():
        assert shares[0] == (0, 0, 0, 0, 0, 0, 1), "nothing is known of the life before"
