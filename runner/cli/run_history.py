"""`runner list runs`: the past runs of a project, from their records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from runner.ledger import Balance
from runner.report.summary import describe_outcome
from runner.store import records
from runner.text import format_duration, printable_line, printable_text

if TYPE_CHECKING:
    from pathlib import Path

_ENDS = {0: "ended", 1: "failed", 4: "some dead", 5: "halted", 70: "runner's fault", 124: "deadline"}
_KINDS: dict[str, Any] = {
    "title": str,
    "began": (int, float),
    "seconds": (int, float),
    "exit_code": int,
    "balance": dict,
    "unfinished": list,
}


def past_runs(state: Path) -> list[dict[str, Any]]:
    """Return one entry for each run, the last one first: how it ended, or "going on", or "killed"."""
    found = []
    for run in reversed(records.recorded_runs(state)):
        path = state / "runs" / run / records.RECORD_FILE
        record = records.read_unchecked(path)
        told = {key: _checked_value(record, key) for key in _KINDS}
        found.append({"run": run, "end": _describe_end(path, record), **told, "outcome": _outcome_line(record)})
    return found


def _checked_value(record: dict[str, Any], key: str) -> Any:
    """Return a value of a record, or None if it has another type: other programs and hands can write records."""
    value = record.get(key)
    if key == "balance" and isinstance(value, dict) and not all(type(count) is int for count in value.values()):
        return None
    return value if isinstance(value, _KINDS[key]) else None


def _describe_end(path: Path, record: dict[str, Any]) -> str:
    code = record.get("exit_code")
    if isinstance(code, int):
        return _ENDS.get(code, "stopped")
    if not record:
        return "unreadable"
    return "going on" if records.is_going_on(path, record) else "killed"


def _outcome_line(record: dict[str, Any]) -> str:
    """Return the last line of its summary; without a name of a task that was not written by runner."""
    try:
        hows = {str(task["name"]): task["how"] for task in record["tasks"]}
        cut = [str(name) for name in record.get("unfinished", ())]
        return describe_outcome(Balance(**record["balance"]), hows, cut, queues=bool(record["queues"]))
    except (TypeError, ValueError, KeyError, AttributeError):  # written by another program, or by hand
        return "?"


def table_rows(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the same for people."""
    return [tuple(_run_row(entry)) for entry in found]


def _run_row(entry: dict[str, Any]) -> list[str]:
    try:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(entry["began"])))
        took = format_duration(float(entry["seconds"]))
    except (TypeError, ValueError, KeyError, OverflowError, OSError):  # written by another program, or by hand
        began = took = "?"
    title = printable_line(entry["title"] or "?")
    return [printable_text(entry["run"]), began, entry["end"], took, title[:30], entry["outcome"]]
