"""Chrome trace events: what Perfetto needs, and times that add up."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict

import past_runs
import pytest

from runner.events import STATES
from runner.report.record import RunRecord
from runner.report.trace import trace_json


def events_of(record):
    return json.loads(trace_json(record))["traceEvents"]


@pytest.fixture(scope="module")
def found():
    return events_of(past_runs.past_run())


def test_every_event_has_what_its_kind_needs(found):
    wanted = {"M": {"args"}, "X": {"ts", "dur", "cat"}, "C": {"ts", "args"}, "i": {"ts", "s", "args"}}
    for event in found:
        assert {"ph", "name", "pid", "tid", *wanted[event["ph"]]} <= event.keys()
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] != "C" or all(isinstance(value, (int, float)) for value in event["args"].values())


def test_a_task_is_a_process_and_a_worker_its_thread(found):
    named = {event["pid"]: event["args"]["name"] for event in found if event["name"] == "process_name"}
    assert list(named.values()) == ["run 20261123-101500", "read", "resize", "upload", "manifest"]
    threads = {(named[e["pid"]], e["args"]["name"]) for e in found if e["name"] == "thread_name"}
    assert ("resize", "resize0") in threads
    assert len(threads) == 10
    assert {e["pid"] for e in found} == named.keys()


def test_slices_do_not_overlap_and_add_up(found):
    record = past_runs.past_run()
    rows = defaultdict(list)
    for event in found:
        if event["ph"] == "X":
            rows[event["pid"], event["tid"]].append(event)
    assert len(rows) == 10
    for slices in rows.values():
        for one, other in itertools.pairwise(slices):
            assert one["ts"] + one["dur"] <= other["ts"]
    executing = sum(e["dur"] for e in rows[3, 1] if e["name"] == "executing") / 1e6
    length = record.seconds / len(record.series.at)
    wanted = sum(shares[STATES.index("executing")] for shares in record.series.workers["resize"]["resize0"]) * length
    assert executing == pytest.approx(wanted, abs=0.01)


def test_counters_and_instants(found):
    assert {e["name"] for e in found if e["ph"] == "C"} >= {"queue paths", "throughput read", "throughput resize"}
    death, notice = (e for e in found if e["ph"] == "i")
    assert (death["s"], death["pid"], death["tid"]) == ("t", 3, 1)
    assert (notice["s"], notice["args"]["count"]) == ("g", 12)


def test_any_record_has_a_trace():
    assert len(events_of(RunRecord("r", "t"))) == 2
    names = {e["args"].get("name") for e in events_of(past_runs.hostile()) if e["ph"] == "M"}
    assert past_runs.HOSTILE in names
