"""Watches what workers execute: time limits, memory and lifespans.

The progress slot tells which item a worker executes; a watched worker whose slot has not moved for `timeout`
seconds is asked for its stack (SIGQUIT, answered by faulthandler even when C code holds the GIL), and killed.
The item counts as tried once, and may be tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import ENDED, STARTING
from runner.transport.messages import Stop
from runner.transport.progress_page import Position

if TYPE_CHECKING:
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot

_SAMPLE = 0.05
#: It is looked so often whether the stack is there, and killed when two looks in a row see the same one.
_STACK_LOOK = 0.025
#: A worker that has not written its stack by then (a machine under load, a stopped process) is killed without it.
_STACK_LIMIT = 2.0
#: An event loop that has not ended an item so long after its limit is stuck.
_STUCK = 1.0


@dataclass(slots=True)
class _Kill:
    """A worker that will be killed: when to look for its stack next and last, and what the last look saw."""

    slot: WorkerSlot
    generation: int
    next_look: float
    last_look: float
    stack: str = ""


class TimeoutWatchdog:
    """Looks at the progress of workers that have a time limit, every 50 ms."""

    def __init__(self, state: RunState) -> None:
        self.clock = state.clock
        self._ledger = state.ledger
        #: The tasks that have a time limit.
        self.timed_tasks = [task for task in state.tasks.values() if task.plan.config.timeout is not None]
        self._next: float | None = None
        self._looked = 0.0
        self._kills: list[_Kill] = []
        #: For `async` tasks: when each lease was granted; their items run side by side, so no slot tells.
        self._granted: dict[int, float] = {}

    def next_time(self) -> float | None:
        """Return when to look again."""
        if not self._kills:
            return self._next
        times = (self._next, *(kill.next_look for kill in self._kills))
        return min((when for when in times if when is not None), default=None)

    def check_timeouts(self, now: float) -> None:
        """Sample the progress slots, and kill the overdue workers that have written their stacks."""
        self._kills = [kill for kill in self._kills if kill.next_look > now or not self._end_worker(kill, now)]
        if not self.timed_tasks or (self._next is not None and now < self._next):
            return
        for task in self.timed_tasks:
            self._forgive(task, now, now - self._looked)
        self._looked = now
        slots = [slot for task in self.timed_tasks for slot in task.slots]
        dues = [due for slot in slots if (due := self._sample_worker(slot, now)) is not None]
        self._next = min(now + _SAMPLE, *dues) if dues else None

    @staticmethod
    def _end_worker(kill: _Kill, now: float) -> bool:
        """Kill an overdue worker once its stack is written; tell whether that is over."""
        slot = kill.slot
        if slot.generation != kill.generation or slot.phase not in {Phase.READY, Phase.ENDING}:
            return True
        stack = slot.task.engine.read_stack(slot.index)
        if now < kill.last_look and not (stack and stack == kill.stack):
            kill.stack, kill.next_look = stack, min(now + _STACK_LOOK, kill.last_look)
            return False
        slot.task.engine.kill(slot.index)
        return True

    def watch_lease(self, task: TaskState, lease: int = 0) -> None:
        """Watch work that was given to a task, if the task has a time limit."""
        if task.plan.config.timeout is None:
            return
        now = self.clock.now()
        if lease and task.is_async:
            self._granted[lease] = now
        if self._next is None:
            self._next = now

    def forget_lease(self, lease: int) -> None:
        """Forget a lease that is over."""
        self._granted.pop(lease, None)

    def _sample_worker(self, slot: WorkerSlot, now: float) -> float | None:
        """Look at one worker; return when it will be overdue, None when it has nothing under way."""
        if slot.phase not in (Phase.READY, Phase.ENDING) or slot.overdue_position or slot.death_pending:
            return None
        task, limit = slot.task, slot.task.plan.config.timeout or 0.0
        if task.is_async:
            # Its loop watches the items; only a loop that is stuck itself has to be ended from outside.
            oldest = min((self._granted[lease] for lease in slot.leases if lease in self._granted), default=None)
            return None if oldest is None else self._check_due(slot, now, oldest + limit + _STUCK)
        position = task.engine.current_position(slot.index)
        if not position.lease and not slot.leases and not task.is_source:
            slot.last_position = None
            return None
        if task.is_source:
            position = Position(slot.generation, 0)  # the whole call
        if position != slot.last_position:
            slot.last_position, slot.last_position_at = position, now
        if not task.is_source and not position.lease:  # it decodes, or sends
            return now + _SAMPLE
        return self._check_due(slot, now, slot.last_position_at + limit)

    def _forgive(self, task: TaskState, now: float, since: float) -> None:
        """Forgive the time in which a worker's output is not taken: it waits for room, or to print."""
        held_up = getattr(task.engine, "is_output_blocked", lambda _: False)  # a plugin's engine need not know
        for slot in task.slots:
            if slot.phase not in (Phase.READY, Phase.ENDING) or slot.overdue_position:
                continue
            no_room = task.is_source and task.output_groups and slot.credit <= slot.received_items
            if no_room or held_up(slot.index):
                slot.last_position_at = min(now, slot.last_position_at + since)
                for lease in slot.leases:
                    if lease in self._granted:
                        self._granted[lease] = min(now, self._granted[lease] + since)

    def _check_due(self, slot: WorkerSlot, now: float, when: float) -> float | None:
        if now < when:
            return when
        slot.overdue_position = slot.task.engine.current_position(slot.index)
        slot.task.engine.request_stack(slot.index)
        self._kills.append(_Kill(slot, slot.generation, now + _STACK_LOOK, now + _STACK_LIMIT))
        return None

    def shift_times(self, seconds: float) -> None:
        """Shift all times: the run was stopped and goes on."""
        for task in self.timed_tasks:
            for slot in task.slots:
                slot.last_position_at += seconds
        self._granted = {lease: when + seconds for lease, when in self._granted.items()}

    def _may_lose_ends(self, task: TaskState) -> bool:
        """Return True if a tear-down would make something of items that the next life does not know to be done."""
        journal = self._ledger.journal
        return journal is not None and task.plan.shape.kind == "class" and journal.has_unkept_ends(task.name)

    def check_lifespan(self, slot: WorkerSlot) -> None:
        """Retire a worker that has done its share, is too many, or whose machine is to be taken away, after a reply.

        It is replaced once it holds nothing, unless there are too many.
        """
        limits = slot.task.plan.config.lifespan
        if slot.phase is not Phase.READY or slot.task.dismissed or slot.task.is_source:
            return
        if limits is not None and not slot.retiring:
            worn_out = limits.items is not None and slot.items >= limits.items
            slot.retiring = worn_out or (
                limits.memory is not None and slot.task.engine.resident_bytes(slot.index) > limits.memory
            )
            slot.task.count_acceptor(slot)
        if slot.retiring and not slot.leases and not (slot.surplus and self._may_lose_ends(slot.task)):
            slot.phase = Phase.ENDING
            slot.time_account.enter_state(ENDED if slot.surplus else STARTING, self.clock.now())
            slot.task.engine.send(slot.index, Stop(inputs_ended=True))
