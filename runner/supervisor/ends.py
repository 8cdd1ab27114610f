"""How a run ends before its tasks have: signals, the deadline, the grace, a stall, a task that stops everything.

    first signal ──▶ stopping: sources stop, what is queued drains ──▶ within `grace` over, or
    second signal, or the end of the grace ──▶ dying: workers are killed, what is left is counted
"""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING

from runner import events
from runner.supervisor.state import Phase
from runner.topology import Stage

if TYPE_CHECKING:
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.state import TaskState


class Ends:
    """Everything that cuts a run short."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.stopping = False
        self.dying = False
        self.signal: int | None = None
        self.deadline_passed = False
        self.halted = False
        self.fault = False
        self.reasons: list[str] = []
        self._deadline: float | None = None
        self._grace_ends: float | None = None

    def begin(self) -> None:
        """The run begins: its deadline counts from here."""
        if self.supervisor.plan.settings.deadline is not None:
            self._deadline = self.supervisor.clock.now() + self.supervisor.plan.settings.deadline

    def next_time(self) -> float | None:
        """When to look again."""
        return min((when for when in (self._deadline, self._grace_ends) if when is not None), default=None)

    def look(self, now: float) -> None:
        """Has the deadline or the grace ended?"""
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self.deadline_passed = True
            self.stop(f"the deadline of {self.supervisor.plan.settings.deadline:g} s has passed")
        if self._grace_ends is not None and now >= self._grace_ends:
            self.die(f"the grace of {self.supervisor.plan.settings.grace:g} s has ended")

    def signalled(self, number: int) -> None:
        """A signal: the first one drains, the second one ends."""
        name = "Ctrl-C" if number == signals.SIGINT else signals.Signals(number).name
        if self.signal is None:
            self.signal = signals.SIGTERM if number == signals.SIGHUP else number
        if self.stopping:
            self.die(f"{name}, again" if name == "Ctrl-C" else name)
        else:
            self.stop(name)

    def stop(self, why: str) -> None:
        """Stop the sources and drain what is queued, within the grace."""
        if self.stopping:
            return
        self.stopping = True
        self.reasons.append(why)
        now = self.supervisor.clock.now()
        self._grace_ends = now + self.supervisor.plan.settings.grace
        self.supervisor.emit(events.RunStopping(now, why, self._grace_ends))
        for name, task in self.supervisor.tasks.items():
            if self.supervisor.topology.stages[name] is Stage.WAITING:
                task.failed = "the run was stopped before it started"
                self.supervisor.over(name, Stage.SKIPPED, task.failed)
            elif task.is_source:
                self.supervisor.staff.ask_to_stop(task)

    def stop_for(self, why: str, failed: TaskState) -> None:
        """A task's `on_error = "stop"`: the whole run stops, and that task has failed."""
        self.supervisor.staff.fail(failed, why)
        self.stop(why)

    def die(self, why: str) -> None:
        """End at once: kill every worker; threads are left behind."""
        if self.dying:
            return
        self.dying = self.stopping = True
        self._grace_ends = None
        now = self.supervisor.clock.now()
        self.supervisor.emit(events.RunKilled(now, why))
        for name, task in self.supervisor.tasks.items():
            if self.supervisor.topology.stages[name] is Stage.WAITING:
                self.supervisor.over(name, Stage.SKIPPED, "the run was stopped before it started")
            for slot in task.slots:
                if slot.phase is Phase.WAITING or (slot.phase is not Phase.GONE and not task.fleet.kill(slot.index)):
                    slot.phase = Phase.GONE
            if all(slot.phase is Phase.GONE for slot in task.slots) and not self.supervisor.topology.is_over(name):
                self.supervisor.over(name, Stage.FAILED if task.failed else Stage.OK, task.failed)

    def stalled(self, where: str) -> None:
        """Nothing can ever happen again; say what waits for what, and end."""
        self.fault = True
        why = f"the run has come to a standstill, which must not happen: {where}"
        self.reasons.append(why)
        self.die(why)

    def count_dead(self) -> None:
        """An item has died: is it one too many?"""
