"""A run's record as Chrome trace events, which Perfetto and chrome://tracing open.

A task is a process with a thread for each of its workers; a worker's states are slices. The record knows what share
of an interval each state has taken, not in which order: within an interval the slices stand in the order of `STATES`,
beginning with the one that goes on. Their lengths are right, their places within an interval are not known.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runner.events import STATES
from runner.report.page import task_rates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from runner.report.record import RunRecord

_RUN = 1
#: Shorter than this nobody sees, and shares that do not quite add up make many of them; in microseconds.
_LEAST = 1.0


def trace_json(record: RunRecord) -> str:
    """Write the text of a trace file."""
    value = {
        "traceEvents": list(_trace_events(record)),
        "displayTimeUnit": "ms",
        "otherData": {"run": record.run, "title": record.title, "runner": record.plan.machine.runner},
    }
    return json.dumps(value, separators=(",", ":"))


def _trace_events(record: RunRecord) -> Iterator[dict[str, Any]]:
    yield from _named_row("process", _RUN, 0, f"run {record.run}", 0)
    # In the order of the file, with all the workers that are known of a task.
    names = {task.name: dict.fromkeys(task.workers) for task in record.plan.tasks}
    for task, shares_of in record.series.workers.items():
        names.setdefault(task, {}).update(dict.fromkeys(shares_of))
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for pid, (task, workers) in enumerate(names.items(), _RUN + 1):
        yield from _named_row("process", pid, 0, task, pid)
        for tid, worker in enumerate(workers, 1):
            places[task, worker] = (pid, tid)
            yield from _named_row("thread", pid, tid, worker, tid)
    for task, shares_of in record.series.workers.items():
        for worker, shares in shares_of.items():
            yield from _worker_slices(record.series.at, shares, *places[task, worker])
    yield from _counter_events(record)
    for moment in record.moments:
        # A mark on its worker's row, or else on all of them.
        pid, tid = places.get((moment.task, moment.worker), (_RUN, 0))
        args = {word: getattr(moment, word) for word in ("text", "task", "worker", "count")}
        mark = {"cat": "moment", "s": "t" if tid else "g", "ts": round(moment.at * 1e6), "args": args}
        yield _trace_event("i", moment.kind, pid, tid, **mark)


def _trace_event(phase: str, name: str, pid: int, tid: int, **more: Any) -> dict[str, Any]:
    return {"ph": phase, "name": name, "pid": pid, "tid": tid, **more}


def _named_row(kind: str, pid: int, tid: int, name: str, place: int) -> Iterator[dict[str, Any]]:
    yield _trace_event("M", f"{kind}_name", pid, tid, args={"name": name})
    yield _trace_event("M", f"{kind}_sort_index", pid, tid, args={"sort_index": place})


def _worker_slices(
    at: Sequence[float], shares: Iterable[Sequence[float]], pid: int, tid: int
) -> Iterator[dict[str, Any]]:
    """Yield one worker's states, neighbours of one kind joined."""
    state, begun, now = "", 0.0, 0.0
    before = 0.0
    for end, interval in zip(at, shares, strict=False):
        length, now = (end - before) * 1e6, before * 1e6
        for name, share in sorted(zip(STATES, interval, strict=True), key=lambda one: one[0] != state):
            if share * length < _LEAST:
                continue
            if name != state:
                yield from _state_slice(state, begun, now, pid, tid)
                state, begun = name, now
            now += share * length
        before = end
    yield from _state_slice(state, begun, now, pid, tid)


def _state_slice(state: str, begun: float, ended: float, pid: int, tid: int) -> Iterator[dict[str, Any]]:
    start, end = round(begun), round(ended)  # both rounded, so neighbours meet and never overlap
    if state not in {"", "ended"} and end > start:
        yield _trace_event("X", state, pid, tid, cat="worker", ts=start, dur=end - start)


def _counter_events(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield queue lengths, and items a second of each task; a value that stays is written once."""
    series = record.series
    tracks: list[tuple[str, str, Iterable[float]]] = [
        (f"queue {name}", "items", lengths) for name, lengths in series.queues.items()
    ]
    rates = task_rates(record, range(len(series.at)))
    tracks += [(f"throughput {name}", "per second", found) for name, found in rates.items()]
    for name, unit, values in tracks:
        last = -1.0
        for begin, value in zip((0.0, *series.at), values, strict=False):
            if value != last:
                yield _trace_event("C", name, _RUN, 0, ts=round(begin * 1e6), args={unit: round(value, 3)})
            last = value
