"""The end of a run in words: what each task did, which queues held it up, what failed, what limits it.

At most 80 columns. A run without queues has no table: all there is to say of it is its result and its balance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.error_text import item_name
from runner.text import (
    count_or_empty,
    cut_text,
    format_count,
    format_table,
    printable_line,
    size_or_empty,
    time_or_empty,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner import events
    from runner.report.record import RunRecord

SUMMARY_WIDTH = 80
#: A name is cut to at least so many characters.
_LEAST_NAME = 8
_VERDICTS = {"again": "tried again", "dead": "given up", "dropped": "dropped", "fatal": "fatal"}
#: A run of fewer items and seconds, in which all went well, is a trifle.
MIN_NOTABLE_ITEMS, MIN_NOTABLE_SECONDS = 100, 10.0
#: Failures of a kind that were shown as they happened.
MAX_SHOWN_FAILURES = 3


def summary_tables(record: RunRecord, *, verbose: bool = False) -> Iterator[str]:
    """Yield what each task did, and the queues that were full, or lost or kept something; nothing of a trifle."""
    if not any(task.inputs for task in record.plan.tasks) or not (verbose or _is_notable_run(record)):
        return
    yield from _table_lines("task", [(task.name, _task_cells(record, task)) for task in record.tasks])
    bounds = {queue.name: queue.size for queue in record.plan.queues}
    telling = [queue for queue in record.queues if _is_notable(queue, bounds.get(queue.name))]
    yield from _table_lines("queue", [(queue.name, _queue_cells(queue, bounds.get(queue.name))) for queue in telling])


def _is_notable_run(record: RunRecord) -> bool:
    """Return True if many items passed, or the run took long, or something has not gone as it should."""
    wrong = any(task.dead or task.dropped or task.left or task.repeated for task in record.tasks)
    return (
        wrong or record.seconds >= MIN_NOTABLE_SECONDS or any(task.taken >= MIN_NOTABLE_ITEMS for task in record.tasks)
    )


def _is_notable(queue: events.QueueSummary, size: int | None) -> bool:
    return bool(queue.dead or queue.dropped or queue.left or (size and queue.most >= size))


def _task_cells(record: RunRecord, task: events.TaskSummary) -> dict[str, str]:
    planned = {each.name: each for each in record.plan.tasks}.get(task.name)
    return {
        "in": format_count(task.taken) if planned is None or planned.inputs else "",
        "out": format_count(task.sent) if planned is None or planned.outputs else "",
        "dead": count_or_empty(task.dead),
        "dropped": count_or_empty(task.dropped),
        "left": count_or_empty(task.left),
        "again": count_or_empty(task.repeated),
        "median": time_or_empty(task.median),
        "p99": time_or_empty(task.p99),
        "busy": f"{task.busy:.0%}" if task.workers else "",
        "memory": size_or_empty(task.peak),
    }


def _queue_cells(queue: events.QueueSummary, size: int | None) -> dict[str, str]:
    most = f"{format_count(queue.most)} of {format_count(size)}" if size else format_count(queue.most)
    return {
        "in": format_count(queue.put),
        "out": format_count(queue.done),
        "dead": count_or_empty(queue.dead),
        "dropped": count_or_empty(queue.dropped),
        "left": count_or_empty(queue.left),
        "at most": most,
    }


def _table_lines(title: str, rows: Sequence[tuple[str, dict[str, str]]]) -> Iterator[str]:
    """Yield columns that say something, numbers to the right, the name cut so that it fits."""
    if not rows:
        return
    keys = [key for key in rows[0][1] if any(row[key] for _, row in rows)]
    widths = {key: max(len(key), *(len(row[key]) for _, row in rows)) for key in keys}
    room = SUMMARY_WIDTH - sum(widths.values()) - 2 * len(widths)
    while room < _LEAST_NAME and widths:  # names say more than the last column
        room += widths.popitem()[1] + 2
    keys = list(widths)
    names = [cut_text(printable_line(name), room) for name, _ in rows]
    told = [[name, *(row[key] for key in keys)] for name, (_, row) in zip(names, rows, strict=True)]
    yield from format_table([[title, *keys], *told], ">")


def failure_lines(record: RunRecord) -> Iterator[str]:
    """Yield each kind of failure that was not shown one by one, the most frequent first."""
    groups = sorted(record.failures, key=lambda group: -group.count)
    for group in groups:
        if group.count > MAX_SHOWN_FAILURES:
            verdict = _VERDICTS.get(group.verdict, group.verdict)
            name = printable_line(item_name(group.preview, group.first_item, 60))
            first = f" (first: {name})" if group.first_item else ""
            yield f"{group.count:,} × {printable_line(group.kind)} in {printable_line(group.task)}, {verdict}{first}"
