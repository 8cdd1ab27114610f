"""Two runs side by side: how long, how fast, what each task took, and what was changed in between."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runner.structs import dataclass
from runner.text import (
    format_duration,
    format_rate,
    format_table,
    printable_line,
    printable_text,
    size_or_empty,
    time_or_empty,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.report.record import RunRecord

#: Of the JSON: raised when a key is taken away or means something else.
COMPARISON_VERSION = 1
_MOST_LINES = 400


@dataclass(frozen=True, slots=True)
class FigurePair:
    """One figure of both runs; None where a run has none. `ratio` is after / before."""

    label: str
    before: float | None
    after: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        """Return `after` as a multiple of `before`; None when there is none.

        >>> FigurePair("seconds", 4.0, 3.0, "s").ratio, FigurePair("seconds", 0.0, 3.0, "s").ratio
        (0.75, None)
        """
        return self.after / self.before if self.before and self.after is not None else None

    @property
    def cell_texts(self) -> tuple[str, str, str]:
        """Return before, after, and the change: +25 %, or 3.1 times from twice on."""
        before, after = ("–" if value is None else _SHOWN[self.unit](value) for value in (self.before, self.after))
        return before, after, self._change_text()

    def _change_text(self) -> str:
        if self.before is None or self.after is None:
            return ""
        if self.unit == "share":
            points = 100 * (self.after - self.before)
            return f"{points:+.0f} points" if abs(points) >= 0.5 else "="
        ratio = self.ratio
        if self.before == self.after or (ratio is not None and abs(ratio - 1) < 0.005):
            return "="
        if ratio is None:
            return ""
        return f"{ratio:.3g} times" if ratio >= 2 else f"{100 * (ratio - 1):+.0f} %"


_SHOWN: dict[str, Callable[[float], str]] = {
    "s": format_duration,
    "item": time_or_empty,
    "rate": format_rate,
    "count": lambda value: f"{value:,.0f}",
    "size": lambda value: size_or_empty(int(value)),
    "share": lambda value: f"{100 * value:.0f} %",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs: figures of the whole, figures by task, lines of the resolved files that differ, other changes."""

    before: RunRecord
    after: RunRecord
    run_figures: tuple[FigurePair, ...]
    task_figures: dict[str, tuple[FigurePair, ...]]
    changed_lines: tuple[str, ...]
    notes: tuple[str, ...]


def compare_records(before: RunRecord, after: RunRecord) -> Comparison:
    """Return what is different from `before` to `after`."""
    one, two = _task_figures(before), _task_figures(after)
    tasks = {name: _pair_figures(_TASK_UNITS, one.get(name, {}), two.get(name, {})) for name in one | two}
    units = _RUN_UNITS | _NODE_UNITS if before.nodes or after.nodes else _RUN_UNITS
    whole = _pair_figures(units, _run_figures(before), _run_figures(after))
    return Comparison(before, after, whole, tasks, _changed_lines(before, after), _changed_circumstances(before, after))


#: Figures of a run and of a task, each with its unit.
_RUN_UNITS = {"seconds": "s", "throughput": "rate", "done": "count", "dead": "count", "repeated": "count"}
#: Where one of them had other machines: how many joined, and the bytes between them and the supervisor.
_NODE_UNITS = {"nodes": "count", "sent to nodes": "size", "sent by nodes": "size"}
_TASK_UNITS = {"workers": "count", "done": "count", "median": "item", "p99": "item", "busy": "share"}


def _pair_figures(
    units: dict[str, str], before: dict[str, float | None], after: dict[str, float | None]
) -> tuple[FigurePair, ...]:
    return tuple(FigurePair(label, before.get(label), after.get(label), unit) for label, unit in units.items())


def _run_figures(record: RunRecord) -> dict[str, float | None]:
    total = record.balance
    per_second = total.done / record.seconds if record.seconds else None
    counts = {"done": total.done, "dead": total.dead, "repeated": total.repeated}
    return {"seconds": record.seconds, "throughput": per_second, **counts, **_node_figures(record)}


def _node_figures(record: RunRecord) -> dict[str, float | None]:
    sent, received = sum(node.sent for node in record.nodes), sum(node.received for node in record.nodes)
    return {"nodes": len(record.nodes), "sent to nodes": sent or None, "sent by nodes": received or None}


def _task_figures(record: RunRecord) -> dict[str, dict[str, float | None]]:
    workers = {planned.name: len(planned.workers) for planned in record.plan.tasks}
    found: dict[str, dict[str, float | None]] = {}
    for task in record.tasks:
        counts = {"workers": len(task.workers) or workers.get(task.name), "done": task.done or task.sent}
        found[task.name] = {**counts, "median": task.median, "p99": task.p99, "busy": task.busy}
    return found


def _changed_lines(before: RunRecord, after: RunRecord) -> tuple[str, ...]:
    """Return the lines that differ, each below the table that it stands in."""
    diff = difflib.unified_diff(
        before.plan.resolved.splitlines(), after.plan.resolved.splitlines(), lineterm="", n=10**6
    )
    found: list[str] = []
    table = shown = ""
    for line in list(diff)[3:]:
        text = line[1:]
        if text.startswith("["):
            table, shown = text, text if line[0] != " " else shown
        if line[0] == " " or not text or text.startswith("#"):  # a comment names the file, which the notes say
            continue
        if table != shown:
            found.append(f"  {table}")
            shown = table
        found.append(f"{line[0]} {text}")
    more = len(found) - _MOST_LINES
    return (*found[:_MOST_LINES], f"... and {more:,} more lines") if more > 0 else tuple(found)


def _changed_circumstances(before: RunRecord, after: RunRecord) -> tuple[str, ...]:
    one, two = before.plan.machine, after.plan.machine
    pairs = [
        ("file", before.plan.file, after.plan.file),
        ("system", one.system, two.system),
        ("Python", one.python, two.python),
        ("runner", one.runner, two.runner),
        ("cores", str(one.cores), str(two.cores)),
        ("exit code", str(before.exit_code), str(after.exit_code)),
    ]
    return tuple(f"{word}: {old or '–'} → {new or '–'}" for word, old, new in pairs if old != new)


def comparison_text(comparison: Comparison) -> str:
    """Write a comparison for a terminal."""
    before, after = comparison.before, comparison.after
    lines = [
        " → ".join(f"{printable_text(record.run)} ({printable_line(record.title)})" for record in (before, after)),
        "",
    ]
    rows = [("", "before", "after", "change")]
    rows += [(pair.label, *pair.cell_texts) for pair in comparison.run_figures]
    for name, pairs in comparison.task_figures.items():
        rows += [("", "", "", ""), (printable_line(name), "", "", "")]
        rows += [(f"  {pair.label}", *pair.cell_texts) for pair in pairs if pair.cell_texts != ("–", "–", "")]
    lines += format_table(rows, ">")
    if comparison.notes:
        lines += ["", *map(printable_text, comparison.notes)]
    if comparison.changed_lines:
        lines += ["", "differences of the resolved files:", *map(printable_text, comparison.changed_lines)]
    return "\n".join(lines)


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """Write a comparison for programs: both runs, every pair as {before, after, ratio}, what was changed."""

    def pairs(found: tuple[FigurePair, ...]) -> dict[str, Any]:
        return {pair.label: {"before": pair.before, "after": pair.after, "ratio": pair.ratio} for pair in found}

    return {
        "version": COMPARISON_VERSION,
        "before": _run_head(comparison.before),
        "after": _run_head(comparison.after),
        "whole": pairs(comparison.run_figures),
        "tasks": {name: pairs(found) for name, found in comparison.task_figures.items()},
        "changed": list(comparison.changed_lines),
        "notes": list(comparison.notes),
    }


def _run_head(record: RunRecord) -> dict[str, Any]:
    head = {key: getattr(record, key) for key in ("run", "title", "began", "exit_code")}
    return {**head, "machine": asdict(record.plan.machine)}
