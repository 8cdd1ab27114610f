"""`Progress` events, four times a second, if there is a listener; else no timer is ever set."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner import events
from runner.events import STATES
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import ENDED, EXECUTING, ITEM, ROOM, STARTING, TURN

if TYPE_CHECKING:
    from runner.supervisor.run_state import RunState, TaskState

PROGRESS_INTERVAL = 0.25


class ProgressReporter:
    """Tells how far everything is. `listening`: there is a listener."""

    def __init__(self, state: RunState, *, listening: bool) -> None:
        self.state = state
        #: The longest that each queue was seen to be.
        self.longest_queues: dict[str, int] = {}
        self._next: float | None = state.clock.now() + PROGRESS_INTERVAL if listening else None

    def next_time(self) -> float | None:
        """Return when to tell again."""
        return self._next

    def report_when_due(self, now: float) -> None:
        """Tell when it is time; a moment that was missed is not made up for."""
        if self._next is not None and now >= self._next:
            self._next = now + PROGRESS_INTERVAL
            self.report_progress(now)

    def report_progress(self, now: float) -> None:
        """Tell how far everything is."""
        state = self.state
        waiting: dict[str, int] = {}
        for line in state.ledger.subscriptions:  # a copied queue has one for each reader: the longest one counts
            waiting[line.queue] = max(waiting.get(line.queue, 0), line.count)
        self.longest_queues = {queue: max(self.longest_queues.get(queue, 0), count) for queue, count in waiting.items()}
        workers = {name: workers_of(task, now) for name, task in state.tasks.items()}
        tasks = {name: self._task_counts(task, workers[name]) for name, task in state.tasks.items()}
        state.emit(events.Progress(now, tasks, waiting, workers))

    def _task_counts(self, task: TaskState, workers: tuple[events.WorkerNow, ...]) -> events.TaskCounts:
        ledger = self.state.ledger
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
            stage=self.state.topology.stages[task.name].value,
        )


def workers_of(task: TaskState, now: float) -> tuple[events.WorkerNow, ...]:
    """Return all workers of a task, as events show them."""
    for slot in task.slots:
        if slot.phase is Phase.GONE:
            slot.time_account.enter_state(ENDED, now)
    return tuple([slot.time_account.worker_now(slot.name, slot.pid, now) for slot in task.slots])
