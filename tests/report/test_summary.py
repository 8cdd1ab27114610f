"""The end of a run in words: at most 80 columns, nothing that steers a terminal, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runner import events
from runner.report import console as summary
from runner.report.record import FailureGroup, RunRecord

names = st.text(min_size=1, max_size=60)
numbers = st.integers(0, 10**13)
seconds = st.none() | st.floats(1e-9, 1e6)
workers = st.builds(
    events.WorkerNow, names, st.just("ended"), st.just(events.Spent()), memory=st.none() | st.integers(0, 10**13)
)
tasks = st.builds(
    events.TaskSummary, names, st.just("ok"), taken=numbers, done=numbers, dead=numbers, dropped=numbers, left=numbers,
    repeated=numbers, sent=numbers, median=seconds, p99=seconds, busy=st.floats(0, 1),
    workers=st.lists(workers, max_size=3).map(tuple),
)  # fmt: skip
queues = st.builds(events.QueueSummary, names, numbers, numbers, numbers, numbers, numbers, numbers)


def record(some: list[Any], lines: list[Any] = ()) -> RunRecord:  # type: ignore[assignment]
    planned = tuple(events.TaskPlanned(task.name, "x", "process", ("w",), ("q",), ("r",)) for task in some)
    bounds = tuple(events.QueuePlanned(queue.name, 10) for queue in lines)
    plan = events.RunPlan(tasks=planned, queues=bounds)
    return RunRecord("r", "t", tasks=tuple(some), queues=tuple(lines), plan=plan)


@examples(40, 150)
@given(st.lists(tasks, max_size=5), st.lists(queues, max_size=3))
def test_nothing_wraps(some: list[Any], lines: list[Any]) -> None:
    for line in summary.summary_tables(record(some, lines), verbose=True):
        assert cell_len(line) <= summary.SUMMARY_WIDTH + 2  # some signs are as wide as their terminal makes them
        assert line.isprintable()


def test_what_it_says() -> None:
    worker = events.WorkerNow("w", "ended", events.Spent(), memory=22_000_000)
    made = record(
        [
            events.TaskSummary("read", "ok", sent=10_000, median=1.2e-6, p99=3e-6, busy=0.03, workers=(worker,)),
            events.TaskSummary(
                "resize", "ok", taken=10_000, done=9_987, dead=13, repeated=3, sent=9_987, median=0.042, p99=0.31,
                busy=0.97, workers=(worker,),
            ),
        ],
        [
            events.QueueSummary("paths", 10_000, 9_987, 13, most=10),
            events.QueueSummary("quiet", 10_000, 10_000, most=4),
        ],
    )  # fmt: skip
    assert list(summary.summary_tables(made)) == [
        "task        in     out  dead  again  median    p99  busy  memory",
        "read         0  10,000                1.2us  3.0us    3%    22MB",
        "resize  10,000   9,987    13      3    42ms  310ms   97%    22MB",
        "queue      in    out  dead   at most",
        "paths  10,000  9,987    13  10 of 10",
    ]


def test_a_trifle_is_told_only_to_those_who_ask() -> None:
    made = record([events.TaskSummary("a", "ok", taken=99, done=99)])
    assert list(summary.summary_tables(made)) == []
    assert len(list(summary.summary_tables(made, verbose=True))) == 2
    for more in ({"seconds": 10.0}, {"tasks": (events.TaskSummary("a", "ok", taken=100),)}):
        assert len(list(summary.summary_tables(replace(made, **more)))) == 2
    wrong = record([events.TaskSummary("a", "ok", taken=1, repeated=1)])
    assert len(list(summary.summary_tables(wrong))) == 2


def test_without_queues_there_is_no_table() -> None:
    made = RunRecord("r", "t", tasks=(events.TaskSummary("dance", "ok"),), plan=events.RunPlan())
    assert list(summary.summary_tables(made)) == []


def test_failures_that_were_not_shown_one_by_one() -> None:
    def group(count: int, kind: str, verdict: str = "dead") -> FailureGroup:
        return FailureGroup("upload", kind, verdict, count, "12.7", "w", "error")

    made = RunRecord(
        "r", "t", failures=(group(3, "ValueError"), group(37, "OSError"), group(50, "OS\x1b[31m", "again"))
    )
    assert list(summary.failure_lines(made)) == [
        "50 × OS\\x1b[31m in upload, tried again (first: item 12.7)",
        "37 × OSError in upload, given up (first: item 12.7)",
    ]
