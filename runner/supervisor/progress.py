"""`Progress` events, four times a second, where somebody listens; else no timer is ever set."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner import events
from runner.events import STATES
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import ENDED, EXECUTING, ITEM, ROOM, STARTING, TURN

if TYPE_CHECKING:
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.run_state import TaskState

PROGRESS_INTERVAL = 0.25


class ProgressReporter:
    """Tells how far everything is. `listening`: somebody wants to know."""

    def __init__(self, supervisor: Supervisor, *, listening: bool) -> None:
        self.supervisor = supervisor
        #: The longest that each queue was seen to be.
        self.longest_queues: dict[str, int] = {}
        self._next: float | None = supervisor.clock.now() + PROGRESS_INTERVAL if listening else None

    def next_time(self) -> float | None:
        """When to tell again."""
        return self._next

    def report_when_due(self, now: float) -> None:
        """Tell when it is time; a moment that was missed is not made up for."""
        if self._next is not None and now >= self._next:
            self._next = now + PROGRESS_INTERVAL
            self.report_progress(now)

    def report_progress(self, now: float) -> None:
        """Tell now."""
        supervisor = self.supervisor
        waiting: dict[str, int] = {}
        for (
            line
        ) in supervisor.ledger.subscriptions:  # a copied queue has a line for each reader: the longest one counts
            waiting[line.queue] = max(waiting.get(line.queue, 0), line.count)
        self.longest_queues = {queue: max(self.longest_queues.get(queue, 0), count) for queue, count in waiting.items()}
        workers = {name: workers_of(task, now) for name, task in supervisor.tasks.items()}
        tasks = {name: self._counts(task, workers[name]) for name, task in supervisor.tasks.items()}
        supervisor.emit(events.Progress(now, tasks, waiting, workers))

    def _counts(self, task: TaskState, workers: tuple[events.WorkerNow, ...]) -> events.TaskCounts:
        ledger = self.supervisor.ledger
        tally = ledger.task_counts[task.name]
        states = Counter(worker.state for worker in workers)
        return events.TaskCounts(
            done=tally.done,
            dead=tally.dead,
            dropped=tally.dropped,
            repeated=ledger.repeated_items[task.name],
            sent=ledger.sent_items[task.name],
            executing=states[STATES[EXECUTING]],
            workers=sum(slot.phase in (Phase.READY, Phase.ENDING) for slot in task.slots),
            starting=states[STATES[STARTING]],
            item=states[STATES[ITEM]],
            room=states[STATES[ROOM]],
            turn=states[STATES[TURN]],
            stage=self.supervisor.topology.stages[task.name].value,
        )


def workers_of(task: TaskState, now: float) -> tuple[events.WorkerNow, ...]:
    """All workers of a task, as events show them."""
    for slot in task.slots:
        if slot.phase is Phase.GONE:
            slot.time_account.enter_state(ENDED, now)
    return tuple([slot.time_account.worker_now(slot, now) for slot in task.slots])
