"""Figures as a page and a comparison print them, and the tables that stand behind the plots."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from runner.events import STATES
from runner.report.plot_data import counts_per_second, task_progress
from runner.text import format_percentage, format_rate, size_or_empty, time_or_empty

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.events import TaskSummary
    from runner.report.record import RunRecord

_ROWS = 12
#: A table of more workers is not read; the page says how many are left out.
MAX_TABLE_WORKERS = 200
_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


def over_time_table(record: RunRecord) -> dict[str, Any]:
    """Return about a dozen moments: what each task did since the one before, how long each queue was."""
    series = record.series
    count = len(series.at)
    picks = sorted({round((count - 1) * step / (_ROWS - 1)) for step in range(_ROWS)}) if count else []
    at = [series.at[pick] for pick in picks]
    done = [task_progress(record, name) for name in series.done]
    rates = [list(counts_per_second(at, [counts[pick] for pick in picks])) for counts in done]
    rows = [
        {
            "at": time_or_empty(series.at[pick]),
            "rates": [format_rate(per_second[row]) for per_second in rates],
            "lengths": [lengths[pick] for lengths in series.queues.values()],
        }
        for row, pick in enumerate(picks)
    ]
    return {"tasks": list(series.done), "queues": list(series.queues), "rows": rows}


def worker_rows(tasks: Iterable[TaskSummary]) -> list[dict[str, Any]]:
    """Return a row for each worker: the share of its time in each state."""
    found = []
    for task, worker in itertools.islice(((t, w) for t in tasks for w in t.workers), MAX_TABLE_WORKERS):
        spent = [getattr(worker.spent, state) for state in STATES]
        found.append(
            {
                "task": task.name,
                "name": worker.name,
                "shares": [format_percentage(seconds, sum(spent)) for seconds in spent],
                "items": worker.items,
                "cpu": time_or_empty(worker.cpu or None),
                "memory": size_or_empty(worker.memory),
            }
        )
    return found


def time_quantiles(task: TaskSummary) -> list[str]:
    """Return the times that a tenth, half, nine tenths, 99 % and all of the items did not exceed."""
    total, seen, rest = sum(items for _, items in task.times), 0, list(_QUANTILES)
    found: list[str] = []
    for edge, items in sorted(task.times):
        seen += items
        while rest and seen >= rest[0] * total:
            found.append(time_or_empty(edge))
            rest.pop(0)
    return found
