"""The record of a durable run's earlier lives, to be continued by that of the life that goes on.

Counts are those of the ledger, over all lives. The record alone knows what was seen over time, how long items took,
failures and moments: that is taken over here. Of a life that was killed it knows what it wrote last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise
from math import isfinite, log2
from typing import TYPE_CHECKING

from runner import events
from runner.report.record import Incident
from runner.supervisor.outcome import time_quantile
from runner.transport.messages import CLASSES_PER_DOUBLING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.report.record import RunRecord

#: Moments of the earlier lives that are told one by one: the first ones and the last ones, half of what a record has.
MAX_EARLIER_INCIDENTS = 100
#: The kind of moments that count others.
MORE = "more"
NOT_TOLD = "not told one by one"


class EarlierLives:
    """The record of a `run` that is continued. ValueError or ArithmeticError: that run cannot have written it."""

    def __init__(self, record: RunRecord, run: str) -> None:
        if record.run != run:
            raise ValueError(f"it is of run {record.run}")
        at = record.series.at
        if any(not before < after for before, after in pairwise((0.0, *at))) or not all(map(isfinite, at)):
            raise ValueError("its times are not in order")
        self.record = record
        self.last_at = at[-1] if at else 0.0
        self._tasks = {task.name: task for task in record.tasks}
        self._times = {
            task.name: Counter({round(log2(edge) * CLASSES_PER_DOUBLING): items for edge, items in task.times})
            for task in record.tasks
        }
        self._longest = {queue.name: queue.most for queue in record.queues}
        told = [moment for moment in record.moments if moment.kind != MORE]
        first = MAX_EARLIER_INCIDENTS // 4
        last = max(first, len(told) - (MAX_EARLIER_INCIDENTS - first))
        self.incidents = [*told[:first], *told[last:]]
        self.untold = sum(moment.count for moment in told[first:last])
        self.untold += sum(moment.count for moment in record.moments if (moment.kind, moment.text) == (MORE, NOT_TOLD))

    def add_to_tasks(self, tasks: Sequence[events.TaskSummary]) -> tuple[events.TaskSummary, ...]:
        """Return the tasks of this life with the times, workers and results of the lives before it."""
        return tuple(
            self._add_to_task(self._tasks[task.name], task) if task.name in self._tasks else task for task in tasks
        )

    def _add_to_task(self, before: events.TaskSummary, now: events.TaskSummary) -> events.TaskSummary:
        times = Counter(self._times[now.name])
        for edge, items in now.times:
            times[round(log2(edge) * CLASSES_PER_DOUBLING)] += items
        active = before.active + now.active
        workers = {worker.name: worker for worker in before.workers}
        return replace(
            now,
            times=tuple((2.0 ** (key / CLASSES_PER_DOUBLING), items) for key, items in sorted(times.items())),
            median=time_quantile(times, 0.5),
            p99=time_quantile(times, 0.99),
            busy=(before.busy * before.active + now.busy * now.active) / active if active > 0 else 0.0,
            active=active,
            workers=tuple(_add_worker(workers.get(worker.name), worker) for worker in now.workers),
            results={**before.results, **now.results},
        )

    def add_to_queues(self, queues: Sequence[events.QueueSummary]) -> tuple[events.QueueSummary, ...]:
        """Return the queues with the longest that they were in any life."""
        return tuple(replace(queue, most=max(queue.most, self._longest.get(queue.name, 0))) for queue in queues)


def _add_worker(before: events.WorkerNow | None, now: events.WorkerNow) -> events.WorkerNow:
    if before is None:
        return now
    names = [each.name for each in fields(events.Spent)]
    spent = {name: getattr(before.spent, name) + getattr(now.spent, name) for name in names}
    memory = max((each for each in (before.memory, now.memory) if each is not None), default=None)
    items, cpu = before.items + now.items, before.cpu + now.cpu
    return replace(now, spent=events.Spent(**spent), items=items, cpu=cpu, memory=memory)


def describe_begin(lives: Sequence[events.RunLife]) -> str:
    """Say that a life of a run begins, and how the one before it ended.

    >>> describe_begin([events.RunLife(end="Ctrl-C"), events.RunLife(done_before=8685)])
    'life 2 begins with 8,685 items done; the one before it: Ctrl-C'
    """
    number = sum(life.count for life in lives)
    return f"life {number:,} begins with {lives[-1].done_before:,} items done; the one before it: {lives[-2].end}"


def begin_moment(lives: Sequence[events.RunLife], at: float) -> Incident:
    """Return the moment at which a life of a run begins."""
    return Incident(round(at, 3), "life", describe_begin(lives))
