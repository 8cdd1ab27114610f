"""The ends of tasks; and the end of a run before theirs: signals, the deadline, the grace, a stall, a fatal failure.

dismissed, or failed ─▶ workers end, or are killed ─▶ the last one is gone: judged ─▶ finished: `TaskEnded`

first signal ──▶ stopping: sources stop, what is queued drains ──▶ within `grace` over, or
second signal, or the end of the grace ──▶ dying: workers are killed, what is left is counted
"""

from __future__ import annotations

import signal as signals
from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner import events
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import ENDED
from runner.text import format_seconds
from runner.topology import Stage
from runner.transport.messages import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.engines.base import Reactor
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.timeouts import TimeoutWatchdog


#: Items of a task that must have ended before a share of them means something (SPEC 2.3, `halt`).
_ENOUGH = 20
#: It is looked so often whether all workers have written their stacks; after the limit those that have are shown.
_STACK_PAUSE, _STACK_LIMIT = 0.1, 0.5
_BEAT = 1.0
#: What a run needs to end itself; draining takes at least so long; it is looked so often whether it has to begin.
_LEAD, _LEAST_DRAIN, _HURRY = 0.1, 0.05, 0.1


def dismiss_task(state: RunState, task: TaskState) -> None:
    """End the workers of a task: its inputs have ended, or no reader is left for its outputs."""
    if task.dismissed:
        return
    task.dismissed = True
    for slot in task.slots:
        if slot.phase is Phase.READY:
            dismiss_worker(state, slot)
        elif not must_still_run(state, slot):
            renounce_start(state, slot)
    finish_if_over(state, task)


def renounce_start(state: RunState, slot: WorkerSlot) -> bool:
    """Start a worker no more, or not at all that waits for a place; return False if it is too late for that."""
    if slot.phase is Phase.STARTING and (withdraw := getattr(slot.task.engine, "withdraw_start", None)) is not None:
        if not withdraw(slot.index):
            return False
        slot.time_account.enter_state(ENDED, state.clock.now())
    elif slot.phase is not Phase.WAITING:
        return False
    slot.phase = Phase.GONE
    return True


def must_still_run(state: RunState, slot: WorkerSlot) -> bool:
    """Return True if the worker has to be started although no item will come.

    A class's set-up and tear-down do something of their own (a sink opens its file, and puts it in its place):
    when the last worker failed in its set-up, or died, that has not been done.
    """
    return slot.task.plan.shape.kind == "class" and not (slot.retiring or state.stopping)


def dismiss_worker(state: RunState, slot: WorkerSlot) -> None:
    """Tell a worker that no more will come; a source ends at its next item, and says so itself."""
    engine = slot.task.engine
    if slot.task.is_source:
        engine.send(slot.index, Stop(inputs_ended=False))
        return
    slot.phase = Phase.ENDING
    slot.time_account.enter_state(ENDED, state.clock.now())
    # So that its tear-down knows that a task has failed whose items could have come here, perhaps through others.
    writers = state.topology.leading_to([slot.task.name]) - state.drained_sources
    if state.stopping or any(state.tasks[name].failure_reason for name in writers):
        engine.send(slot.index, Stop(inputs_ended=False))
    engine.send(slot.index, Stop(inputs_ended=True))


def fail_task(state: RunState, task: TaskState, why: str) -> None:
    """End a task that has failed: its workers end, its outputs close, tasks after it do not start."""
    if task.failure_reason:
        return
    task.failure_reason = why
    task.dismissed = True
    for slot in task.slots:
        if slot.phase in {Phase.WAITING, Phase.GONE}:
            slot.phase = Phase.GONE
            continue
        if not task.engine.kill(slot.index):
            task.engine.send(slot.index, Stop(inputs_ended=False))
            task.engine.send(slot.index, Stop(inputs_ended=True))  # a thread ends after the item at hand
        slot.phase = Phase.ENDING
    finish_if_over(state, task)


def finish_if_over(state: RunState, task: TaskState) -> None:
    """Finish a task whose workers are all gone."""
    if state.topology.stages[task.name] is not Stage.RUNNING:
        return
    slots = task.slots
    while task.first_live < len(slots) and slots[task.first_live].phase is Phase.GONE:
        task.first_live += 1
    if task.first_live == len(slots):
        if task.returned_early and not task.failure_reason and not state.stopping:
            task.failure_reason = _why_early(state, task)
        finish_task(state, task, Stage.FAILED if task.failure_reason else Stage.OK)


def _why_early(state: RunState, task: TaskState) -> str:
    """Return what is wrong with a function that returned by itself; empty when nothing was left for it."""
    inputs = task.plan.config.inputs
    left = state.ledger.queued_items(task.name)
    if not left and all(map(state.topology.is_closed, inputs)):
        return ""
    names = ", ".join(f"`{queue}`" for queue in inputs)
    return f"its function returned before its input {names} had ended; {left:,} items are left in it"


def skip_task(state: RunState, task: TaskState, why: str) -> None:
    """End a task that was never started."""
    task.failure_reason = why
    finish_task(state, task, Stage.SKIPPED)


def finish_task(state: RunState, task: TaskState, stage: Stage) -> None:
    """Tell everyone that a task is over; tasks before and after it are looked at again."""
    name, now = task.name, state.clock.now()
    state.topology.finish(name, stage)
    task.ended_at = now
    state.check_starts = state.check_ends = True
    state.emit(events.TaskEnded(now, name, stage.value, task.failure_reason))
    if state.ledger.journal is not None and stage is Stage.OK and _is_over_for_good(state, task):
        state.ledger.journal.ended(name)
    state.ledger.remove_reader(name, state.topology.ended_tasks)
    state.dirty_tasks.add_input_writers(name)
    for queue in state.topology.nodes[name].outputs:
        state.dirty_tasks.add_readers(queue)


def _is_over_for_good(state: RunState, task: TaskState) -> bool:
    """Return True if a task that ended well need not begin again when the run goes on.

    A source has come to its own end, and a tear-down was not told that the run is being stopped.
    """
    if task.is_source:
        return all(slot.ended_by_itself for slot in task.slots)
    return not state.stopping


class Shutdown(Struct, eq=False):
    """Everything that cuts a run short. `on_kill` is called once all workers were killed."""

    state: RunState
    reactor: Reactor
    timeout_watchdog: TimeoutWatchdog
    on_kill: Callable[[], None] | None = None
    received_signal: int | None = None
    deadline_passed: bool = False
    internal_fault: bool = False
    #: The ledger of a durable run can be written no more.
    disk_failed: bool = False
    _told_trouble: str = ""
    reasons: list[str] = field(default_factory=list)
    _deadline: float = inf
    #: Draining began because of the deadline, and how often it is looked at whether it must begin.
    draining_for_deadline: bool = False
    _window: float = 0.0
    #: When the limits were looked at last: not the last step, which moves along with each event.
    _checked_at: float = 0.0
    _grace_ends: float = inf
    _stacks_at: float = inf
    _last_stacks_at: float = inf

    def start_deadline(self) -> None:
        """Count the deadline from here: the run begins."""
        settings = self.state.plan.settings
        if settings.deadline is not None:
            self._deadline = self.state.clock.now() + settings.deadline - min(_LEAD, settings.deadline / 10)
            self._window = min(settings.grace, settings.deadline / 2)

    def next_time(self) -> float | None:
        """Return when to look again; with a deadline every second, to know how long a stop has lasted."""
        if self._deadline == self._grace_ends == self._stacks_at == inf:  # asked for at every step, and the usual case
            return None
        beat = inf if self._deadline == inf else self.state.last_step_at + _BEAT
        # Whether draining has to begin for the deadline is looked at often, once it may have to.
        hurry = inf if self.state.stopping else max(self._deadline - self._window, self._checked_at + _HURRY)
        return min(hurry, self._deadline, self._grace_ends, self._stacks_at, beat)

    def check_limits(self, now: float) -> None:
        """Kill all when the deadline or the grace has ended; drain when the deadline is near."""
        self._checked_at, settings = now, self.state.plan.settings
        if now >= self._stacks_at:
            self._tell_stacks(now)
        if self.state.halted and not self.state.killing and not self.state.ledger.leases:
            self.kill_all("")
        if now >= self._deadline:
            self._deadline = inf
            self.deadline_passed = True
            why = f"the deadline of {format_seconds(settings.deadline or 0.0)} has passed"
            self.reasons.append(why)
            self.kill_all(why)
        elif not self.state.stopping and now >= self._deadline - self._drain_time(now):
            self.draining_for_deadline = True
            self.stop(f"the deadline of {format_seconds(settings.deadline or 0.0)} is near")
        if now >= self._grace_ends:
            self.kill_all(f"the grace of {format_seconds(settings.grace)} has ended")

    def _drain_time(self, now: float) -> float:
        """Return the seconds that draining may take, as far as is known: so long before the deadline it begins.

        At most the grace, and half of the deadline. What a task costs that has not ended any item is not known: then
        as long as may be; nor when a call that only watches `Context.stopping` would end: a quarter of that.
        """
        if now < self._deadline - self._window:
            return 0.0
        total, state = _LEAST_DRAIN, self.state
        for name, task in state.tasks.items():
            if state.topology.stages[name] is not Stage.RUNNING:
                continue
            if task.is_source:
                total = max(total, 0.0 if task.output_groups else self._window / 4)
            elif items := state.ledger.queued_items(name) + state.ledger.leased_items[name]:
                if not task.chunk_sizer.item_seconds:
                    return self._window
                at_once = task.worker_count * (task.plan.config.concurrency if task.is_async else 1)
                total += items * task.chunk_sizer.item_seconds / max(1, at_once)
        return min(self._window, 2 * total)

    def handle_signal(self, number: int) -> None:
        """Obey a signal: the first one drains, the second one ends; SIGQUIT, SIGTSTP and SIGCONT end nothing."""
        if number == signals.SIGQUIT:
            return self._show_stacks()
        if number == signals.SIGTSTP:
            return self._suspend_run()
        if number == signals.SIGCONT:  # after a SIGSTOP, which no process can catch
            return self._shift_times(max(0.0, self.state.clock.now() - self.state.last_step_at - _BEAT))
        self._renounce_positions()
        name = "Ctrl-C" if number == signals.SIGINT else signals.Signals(number).name
        if self.received_signal is None:
            self.received_signal = signals.SIGTERM if number == signals.SIGHUP else number
        if self.state.stopping:
            return self.kill_all(f"{name}, again" if name == "Ctrl-C" else name)
        return self.stop(name)

    def stop(self, why: str) -> None:
        """Stop the sources and drain what is queued, within the grace."""
        if self.state.stopping:
            return
        self.state.stopping = True
        self.reasons.append(why)
        now = self.state.clock.now()
        self._grace_ends = min(now + self.state.plan.settings.grace, self._deadline)
        self.state.emit(events.RunStopping(now, why, self._grace_ends, drains=not self.state.halted))
        for name, task in self.state.tasks.items():
            if self.state.topology.stages[name] is Stage.WAITING:
                skip_task(self.state, task, "the run was stopped before it started")
            for slot in task.slots if task.is_source else ():
                if slot.phase is Phase.READY:  # it ends at its next item; a call is told through `Context.stopping`
                    task.engine.send(slot.index, Stop(inputs_ended=False))
                elif slot.phase is Phase.STARTING:
                    renounce_start(self.state, slot)
            if task.is_source:
                finish_if_over(self.state, task)

    def fail_or_stop_run(self, task: TaskState, why: str) -> None:
        """Fail a task; with `on_error = "stop"`, the whole run stops as well."""
        stops = task.plan.config.on_error == "stop"
        why = f"task `{task.name}`: {why}" if stops else why
        fail_task(self.state, task, why)
        if stops:
            self.stop(why)

    def kill_all(self, why: str) -> None:
        """End at once: kill every worker; threads are left behind."""
        if self.state.killing:
            return
        self._renounce_positions()
        self.state.killing = self.state.stopping = True
        self._grace_ends = inf
        now = self.state.clock.now()
        if why:
            self.state.emit(events.RunKilled(now, why))
        for name, task in self.state.tasks.items():
            if self.state.topology.stages[name] is Stage.WAITING:
                skip_task(self.state, task, "the run was stopped before it started")
            for slot in task.slots:
                if slot.phase is not Phase.GONE:
                    killed = slot.phase is not Phase.WAITING and task.engine.kill(slot.index)
                    slot.phase = Phase.ENDING if killed else Phase.GONE
            finish_if_over(self.state, task)
        if self.on_kill is not None:
            self.on_kill()

    def _renounce_positions(self) -> None:
        """Let no item be blamed in a later life of the run: who ends it, and may go on to kill it, is known."""
        if self.state.lease_page is not None:
            self.state.lease_page.renounce()

    def report_disk_trouble(self, trouble: str, *, is_broken: bool) -> None:
        """Say what is wrong with the disk of a durable run; end it at once if that will not pass."""
        if trouble and trouble != self._told_trouble:
            self._told_trouble = trouble
            why = trouble if is_broken else f"{trouble}; trying again each second"
            self.state.emit(events.Notice(self.state.clock.now(), why))
        if is_broken:
            self.disk_failed = True
            self.reasons.append(trouble)
            self.kill_all(trouble)

    def report_stall(self, where: str) -> None:
        """Say what waits for what, and end: nothing can ever happen again."""
        self.internal_fault = True
        why = f"the run has come to a standstill, which must not happen: {where}"
        self.reasons.append(why)
        self.kill_all(why)

    def check_dead_limit(self, task: TaskState, last: str) -> None:
        """Halt if too many items have died (`halt`); `last` names the last of them."""
        halt = self.state.plan.settings.halt
        if self.state.stopping:
            return
        if halt.count is not None:
            dead = sum(tally.dead for tally in self.state.ledger.task_counts.values())
            dead -= sum(tally.dead for tally in self.state.earlier_counts.values())
            if dead >= halt.count:
                are = "item is" if dead == 1 else "items are"
                self._halt_for_dead_items(f"{dead:,} {are} dead, and `halt` allows {halt.count - 1:,}", last)
        elif halt.share is not None:
            tally = self.state.ledger.task_counts[task.name]
            ended, dead = tally.done + tally.dead + tally.dropped, tally.dead
            if (earlier := self.state.earlier_counts.get(task.name)) is not None:
                ended -= earlier.done + earlier.dead + earlier.dropped
                dead -= earlier.dead
            if ended >= _ENOUGH and dead > halt.share * ended:
                share = f"{dead:,} of {ended:,} items of task `{task.name}` are dead"
                self._halt_for_dead_items(f"{share}, and `halt` allows {halt.share:.3g} of them", last)

    def _halt_for_dead_items(self, why: str, last: str) -> None:
        self.halt_run(f"halted: {why}; the last one: {last}")

    def halt_run(self, why: str) -> None:
        """Hand out no more work; what workers hold may end within the grace, the rest is left."""
        self.state.halted = True
        self.stop(why)

    def _show_stacks(self) -> None:
        """Ask every worker for its stack (SIGQUIT); the run goes on."""
        now = self.state.clock.now()
        for slot in self.state.slots:
            if slot.phase in {Phase.READY, Phase.ENDING}:
                slot.task.engine.request_stack(slot.index)
        self._stacks_at, self._last_stacks_at = now + _STACK_PAUSE, now + _STACK_LIMIT

    def _tell_stacks(self, now: float) -> None:
        slots = [slot for slot in self.state.slots if slot.phase in {Phase.READY, Phase.ENDING}]
        stacks = [slot.task.engine.read_stack(slot.index) for slot in slots]
        if not all(stacks) and now < self._last_stacks_at:
            self._stacks_at = now + _STACK_PAUSE
            return
        self._stacks_at = inf
        for slot, text in zip(slots, stacks, strict=True):
            self.state.emit(events.Stack(now, slot.task.name, slot.name, slot.pid, text, "SIGQUIT", slot.node))

    def _suspend_run(self) -> None:
        """Stop workers with the run (Ctrl-Z); when it goes on, no time has passed for its limits."""
        engines = {id(task.engine): task.engine for task in self.state.tasks.values()}.values()
        before = self.state.clock.now()
        for engine in engines:
            engine.pause_workers(going_on=False)
        self.reactor.suspend_process()
        for engine in engines:
            engine.pause_workers(going_on=True)
        self._shift_times(self.state.clock.now() - before)

    def _shift_times(self, by: float) -> None:
        self.state.last_step_at += by
        self._deadline += by
        self._grace_ends += by
        self.timeout_watchdog.shift_times(by)
