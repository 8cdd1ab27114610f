"""The end of a run in words: what each task did, which queues held it up, what failed, what limits it.

At most 80 columns. A run without queues has no table: all there is to say of it is its result and its balance.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner.error_text import item_name
from runner.text import (
    count_or_empty,
    count_with_noun,
    cut_text,
    format_count,
    format_table,
    printable_line,
    size_or_empty,
    time_or_empty,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from runner import events
    from runner.ledger import Balance
    from runner.report.record import RunRecord

SUMMARY_WIDTH = 80
#: A name is cut to at least so many characters.
_LEAST_NAME = 8
#: Counts of items that did not get where they should.
_LOSSES = ("dead", "dropped", "left")
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
        **{loss: count_or_empty(getattr(task, loss)) for loss in _LOSSES},
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
        **{loss: count_or_empty(getattr(queue, loss)) for loss in _LOSSES},
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


# -- sentences --------------------------------------------------------------------------------


def describe_executed(event: events.WorkerDied) -> str:
    """Say what a worker executed when it died, for the sentence on its death.

    >>> from runner.events import WorkerDied
    >>> describe_executed(WorkerDied(0.0, "t", "w", 1, "killed", "1.2", preview="'b'", count=3))
    " while it executed one of 3 items, the first of them item 'b' (1.2)"
    """
    if not event.item:
        return ""
    name = item_name(event.preview, event.item)
    if event.count == 1:
        return f" while it executed {name}"
    return f" while it executed one of {event.count:,} items, the first of them {name}"


def describe_outcome(balance: Balance, hows: Mapping[str, str], unfinished: Iterable[str], *, queues: bool) -> str:
    """Say how a run has ended, for its last line: the balance, or, without queues, how many tasks are ok.

    >>> from runner.ledger import Balance
    >>> describe_outcome(Balance(read=9, done=9), {"read": "ok", "eat": "ok"}, ["read"], queues=True)
    '9 read = 9 done + 0 dead + 0 dropped + 0 left; `read` had not ended'
    >>> describe_outcome(Balance(), {"sing": "ok", "dance": "failed", "rest": "ok"}, [], queues=False)
    '2 tasks ok, 1 failed'
    """
    cut = list(unfinished)
    had = f"{_list_names(cut)} had not ended" if cut else ""
    if queues:
        return f"{balance}; {had}" if had else str(balance)
    ended = Counter(how for name, how in hows.items() if name not in cut)
    parts: list[str] = []
    for how, word in (("ok", "ok"), ("failed", "failed"), ("skipped", "not started")):
        if ended[how]:
            parts.append(f"{ended[how]} {word}" if parts else f"{count_with_noun(ended[how], 'task')} {word}")
    return ", ".join([*parts, *([had] if had else [])]) or "no task"


def _list_names(names: Sequence[str]) -> str:
    """Name some tasks.

    >>> _list_names(["a"]), _list_names(["a", "b", "c", "d", "e"])
    ('`a`', '`a`, `b`, `c` and 2 more')
    """
    shown = ", ".join(f"`{printable_line(name)}`" for name in names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown
