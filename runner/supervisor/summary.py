"""Summaries of every task and queue, for the last event of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.supervisor.progress import workers_of
from runner.topology import Stage
from runner.transport.messages import CLASSES_PER_DOUBLING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runner.ledger import Ledger
    from runner.supervisor.run_state import RunState

_HOW = {Stage.OK: "ok", Stage.FAILED: "failed"}


def ending_word(stage: Stage) -> str:
    """Return how a task has ended, in a word.

    >>> ending_word(Stage.OK)
    'ok'
    """
    return _HOW.get(stage, "skipped")


def summarize_tasks(state: RunState, now: float) -> Iterator[events.TaskSummary]:
    """Summarize every task, before what is left is counted: a worker that was ended still holds its leases."""
    ledger = state.ledger
    for name, task in state.tasks.items():
        tally, left = ledger.task_counts[name], ledger.leased_items[name]
        workers = workers_of(task, now)
        began = now if task.began_at is None else task.began_at
        yield events.TaskSummary(
            name=name,
            how=ending_word(state.topology.stages[name]),
            why=task.failure_reason,
            taken=tally.done + tally.dead + tally.dropped + left,
            done=tally.done,
            dead=tally.dead,
            dropped=tally.dropped,
            left=left,
            repeated=ledger.repeated_items[name],
            sent=ledger.sent_items[name],
            median=time_quantile(task.time_histogram, 0.5),
            p99=time_quantile(task.time_histogram, 0.99),
            busy=busy_share([worker.spent for worker in workers], began - state.began_at),
            active=(now if task.ended_at is None else task.ended_at) - began,
            times=tuple(
                (2.0 ** (key / CLASSES_PER_DOUBLING), items) for key, items in sorted(task.time_histogram.items())
            ),
            workers=workers,
            results=dict(task.results),
        )


def summarize_queues(ledger: Ledger, most: Mapping[str, int]) -> Iterator[events.QueueSummary]:
    """Summarize every queue, once what is left has been counted."""
    for name in dict.fromkeys(line.queue for line in ledger.subscriptions):
        tallies = [line.counts for line in ledger.subscriptions if line.queue == name]
        yield events.QueueSummary(
            name=name,
            put=sum(tally.put for tally in tallies),
            done=sum(tally.done for tally in tallies),
            dead=sum(tally.dead for tally in tallies),
            dropped=sum(tally.dropped for tally in tallies),
            left=sum(tally.left for tally in tallies),
            most=most.get(name, 0),
        )


def busy_share(spent: Sequence[events.Spent], before: float = 0.0) -> float:
    """Return the share of the workers' time from ready to ended in which they executed or encoded.

    `before` the task began, its workers waited for their turn for so many seconds.

    >>> busy_share([events.Spent(starting=1, item=1, executing=2, encoding=1, turn=5)], 5.0), busy_share([])
    (0.75, 0.0)
    """
    worked = sum(each.worked for each in spent)
    waited = sum(each.item + each.room + max(0.0, each.turn - before) for each in spent)
    return worked / (worked + waited) if worked + waited > 0 else 0.0


def time_quantile(times: Mapping[int, int], share: float) -> float | None:
    """Return the seconds that this share of the items did not exceed, within 5 %; None: nothing was measured.

    >>> times = {-80: 99, 0: 1}
    >>> round(time_quantile(times, 0.5), 6), round(time_quantile(times, 0.999), 2), time_quantile({}, 0.5)
    (0.000935, 0.96, None)
    """
    most = share * sum(times.values())
    seen = 0
    for key, items in sorted(times.items()):
        seen += items
        if seen >= most:
            return float(2.0 ** ((key - 0.5) / CLASSES_PER_DOUBLING))
    return None
