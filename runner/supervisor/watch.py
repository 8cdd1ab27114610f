"""Watches what workers execute: time limits, memory and lifespans.

The progress cell tells which item a worker executes; a watched worker whose cell has not moved for `timeout`
seconds is asked for its stack (SIGQUIT, answered by faulthandler even when C code holds the GIL), and killed.
The item counts as tried once, and may be tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.supervisor.state import Phase
from runner.transport.messages import Stop

if TYPE_CHECKING:
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.state import Slot, TaskState

_SAMPLE = 0.05
#: Between the request for a stack and the kill.
_LAST_WORDS = 0.05
_MEMORY_SAMPLE = 0.5


class Watch:
    """Looks at the cells of workers that have a time limit, every 50 ms."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._timed = [task for task in supervisor.tasks.values() if task.plan.config.timeout is not None]
        self._next: float | None = None
        self._kills: list[tuple[float, Slot, int]] = []
        self._weighed: dict[int, float] = {}

    def next_time(self) -> float | None:
        """When to look again."""
        kills = [when for when, _, _ in self._kills]
        return min((when for when in (self._next, *kills) if when is not None), default=None)

    def look(self, now: float) -> None:
        """Sample the cells, and kill those whose last words have been said."""
        for kill in [kill for kill in self._kills if kill[0] <= now]:
            self._kills.remove(kill)
            _, slot, life = kill
            if slot.life == life and slot.phase in {Phase.READY, Phase.ENDING}:
                slot.task.fleet.kill(slot.index)
        if not self._timed or (self._next is not None and now < self._next):
            return
        busy = [self._sample(slot, now) for task in self._timed for slot in task.slots]
        self._next = now + _SAMPLE if any(busy) else None

    def granted(self, task: TaskState) -> None:
        """Work was given to a task that may be watched."""
        if self._next is None and task.plan.config.timeout is not None:
            self._next = self.supervisor.clock.now() + _SAMPLE

    def _sample(self, slot: Slot, now: float) -> bool:
        """Look at one worker; whether it must be looked at again."""
        if slot.phase not in {Phase.READY, Phase.ENDING} or slot.overdue:
            return False
        task = slot.task
        if task.is_source:
            seen = (slot.life, 0)
        else:
            position = task.fleet.position(slot.index)
            if not position.lease and not slot.leases:
                slot.seen = None
                return False
            seen = (position.lease, position.index)
        if seen != slot.seen:
            slot.seen, slot.seen_at = seen, now
        elif now - slot.seen_at >= (task.plan.config.timeout or 0.0) and (task.is_source or seen[0]):
            self._overdue(slot, now)
        return True

    def _overdue(self, slot: Slot, now: float) -> None:
        task = slot.task
        slot.overdue = True
        limit = task.plan.config.timeout
        self.supervisor.emit(events.TimedOut(now, task.name, slot.name, slot.pid, limit or 0.0))
        task.fleet.dump(slot.index)
        self._kills.append((now + _LAST_WORDS, slot, slot.life))

    def shift(self, seconds: float) -> None:
        """The run was stopped and goes on: that time does not count."""
        for task in self._timed:
            for slot in task.slots:
                slot.seen_at += seconds

    def lifespan(self, slot: Slot) -> None:
        """After an answer: has this worker done its share?"""
        limits = slot.task.plan.config.lifespan
        if limits is None or slot.phase is not Phase.READY or slot.task.ended:
            return
        old = limits.items is not None and slot.items >= limits.items
        if not old and limits.memory is not None:
            old = self._memory(slot) > limits.memory
        if old:
            slot.retiring = True
            if not slot.leases:
                self.retire(slot)

    def retire(self, slot: Slot) -> None:
        """Replace a worker that holds nothing."""
        slot.phase = Phase.ENDING
        slot.task.fleet.send(slot.index, Stop(ended=True))

    def _memory(self, slot: Slot) -> int:
        now = self.supervisor.clock.now()
        if now - self._weighed.get(slot.index, -1.0) < _MEMORY_SAMPLE:
            return 0
        self._weighed[slot.index] = now
        return slot.task.fleet.memory(slot.index)
