"""`runner list runs`: the past runs of a project, from their records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from runner.ledger import Headline
from runner.report.words import duration, one_line, outcome, plain
from runner.store import records

if TYPE_CHECKING:
    from pathlib import Path

_ENDS = {0: "ended", 1: "failed", 4: "some dead", 5: "halted", 70: "runner's fault", 124: "deadline"}


def past(state: Path) -> list[dict[str, Any]]:
    """One entry for each run, the last one first: how it ended, or "going on", or "killed"."""
    found = []
    for run in reversed(records.runs(state)):
        record = records.brief(state / "runs" / run / records.FILE)
        shown = {key: record.get(key) for key in ("title", "began", "seconds", "exit_code", "balance", "unfinished")}
        found.append({"run": run, "end": _end(record), **shown, "outcome": _outcome(record)})
    return found


def _end(record: dict[str, Any]) -> str:
    code = record.get("exit_code")
    if isinstance(code, int):
        return _ENDS.get(code, "stopped")
    if not record:
        return "unreadable"
    return "going on" if records.is_going_on(record) else "killed"


def _outcome(record: dict[str, Any]) -> str:
    """The last line of its summary; without a name of a task that was not written by runner."""
    try:
        hows = {str(task["name"]): task["how"] for task in record["tasks"]}
        cut = [str(name) for name in record.get("unfinished", ())]
        return outcome(Headline(**record["balance"]), hows, cut, queues=bool(record["queues"]))
    except (TypeError, ValueError, KeyError):  # written by somebody else, or by hand
        return "?"


def rows(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The same for people."""
    return [tuple(_row(entry)) for entry in found]


def _row(entry: dict[str, Any]) -> list[str]:
    try:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(entry["began"])))
        took = duration(float(entry["seconds"]))
    except (TypeError, ValueError, KeyError, OverflowError, OSError):  # written by somebody else, or by hand
        began = took = "?"
    title = one_line(str(entry["title"]))
    return [plain(entry["run"]), began, entry["end"], took, title[:30], entry["outcome"]]
