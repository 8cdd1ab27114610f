"""`Progress` events, four times a second, where somebody listens; else no timer is ever set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.supervisor.state import Phase

if TYPE_CHECKING:
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.state import Slot, TaskState

EVERY = 0.25


class Pulse:
    """Tells how far everything is. `listening`: somebody wants to know."""

    def __init__(self, supervisor: Supervisor, *, listening: bool) -> None:
        self.supervisor = supervisor
        self._next: float | None = supervisor.clock.now() + EVERY if listening else None

    def next_time(self) -> float | None:
        """When to tell again."""
        return self._next

    def look(self, now: float) -> None:
        """Tell when it is time; a moment that was missed is not made up for."""
        if self._next is not None and now >= self._next:
            self._next = now + EVERY
            self.tell(now)

    def tell(self, now: float) -> None:
        """Tell now."""
        supervisor = self.supervisor
        waiting: dict[str, int] = {}
        for line in supervisor.ledger.lines:  # a copied queue has a line for each reader: the longest one counts
            waiting[line.queue] = max(waiting.get(line.queue, 0), line.count)
        tasks = {name: self._counts(task) for name, task in supervisor.tasks.items()}
        supervisor.emit(events.Progress(now, tasks, waiting))

    def _counts(self, task: TaskState) -> events.TaskCounts:
        ledger = self.supervisor.ledger
        tally = ledger.tallies[task.name]
        there = [slot for slot in task.slots if slot.phase in (Phase.READY, Phase.ENDING)]
        return events.TaskCounts(
            done=tally.done,
            dead=tally.dead,
            dropped=tally.dropped,
            repeated=ledger.repeated[task.name],
            sent=ledger.sent[task.name],
            executing=sum(_executes(slot) for slot in there),
            workers=len(there),
        )


def _executes(slot: Slot) -> bool:
    if slot.task.is_source:
        return slot.phase is Phase.READY and slot.working
    return bool(slot.leases)
