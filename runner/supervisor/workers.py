"""Workers: started, ready, finished, failed, dead, replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner import events
from runner.chunk_sizing import time_slice_for
from runner.errors import SpawnError
from runner.supervisor.crashes import MAX_FAILED_STARTS
from runner.supervisor.run_state import Phase, WorkerSlot
from runner.supervisor.shutdown import dismiss_worker, fail_task, finish_if_over, skip_task
from runner.supervisor.time_accounting import ENDED, EXECUTING, ITEM, ROOM, STARTING, WAITING_FOR_REASON, TimeAccount
from runner.transport.messages import Stop
from runner.worker import may_retry

if TYPE_CHECKING:
    from runner.engines.engine_events import WorkerExited
    from runner.supervisor.crashes import CrashHandler
    from runner.supervisor.dispatch import Dispatcher
    from runner.supervisor.retry_policy import RetryPolicy
    from runner.supervisor.run_state import RunState, TaskState
    from runner.supervisor.shutdown import Shutdown
    from runner.supervisor.timeouts import TimeoutWatchdog
    from runner.transport.messages import Failed, Finished, Ready

#: A worker that said it has finished has the grace to end, and cuts off itself what takes longer; one that has not
#: ended so long after that is killed with its group.
_EXIT_GRACE = 5.0


class WorkerPool(Struct, eq=False):
    """All workers of a run."""

    state: RunState
    dispatcher: Dispatcher
    timeout_watchdog: TimeoutWatchdog
    shutdown: Shutdown
    retry_policy: RetryPolicy
    crash_handler: CrashHandler
    _due: list[WorkerSlot] = field(default_factory=list)
    _exit_deadlines: dict[int, float] = field(default_factory=dict)

    # -- starting ------------------------------------------------------------------------------

    def start_due(self, now: float) -> None:
        """Start the tasks that may start, the workers that are due, and end those that linger."""
        if self.state.check_starts:
            self.state.check_starts = False
            self._start_tasks(now)
        if self._due:
            for slot in self._due:
                if slot.phase is Phase.WAITING and slot.start_at <= now:
                    self._start_worker(slot)
            self._due = [slot for slot in self._due if slot.phase is Phase.WAITING]
        if self._exit_deadlines:
            for index in [index for index, until in self._exit_deadlines.items() if until <= now]:
                del self._exit_deadlines[index]
                self.state.slots[index].task.engine.kill(index)

    def _start_tasks(self, now: float) -> None:
        topology, tasks = self.state.topology, self.state.tasks
        if not self.state.stopping:
            while startable := topology.startable_tasks():
                for name in startable:
                    self._start_task(tasks[name], now)
        for name in topology.unstartable_tasks():
            skip_task(self.state, tasks[name], "a task that it comes after has not ended as it must")

    def next_time(self) -> float | None:
        """Return when the next worker is to be started, or ended."""
        if not self._due and not self._exit_deadlines:
            return None
        starts = [slot.start_at for slot in self._due if slot.phase is Phase.WAITING]
        return min([*starts, *self._exit_deadlines.values()], default=None)

    def _start_task(self, task: TaskState, now: float) -> None:
        names = task.plan.config.workers.names
        self.state.topology.mark_started(task.name)
        task.began_at = now
        task.chunk_sizer.time_slice = time_slice_for(len(names))
        self.state.emit(events.TaskStarted(now, task.name, names))
        for name in names:
            account = TimeAccount(task.wait_reason, self.state.began_at, now, ROOM if task.is_source else ITEM)
            slot = WorkerSlot(len(self.state.slots), name, task, start_at=now, time_account=account)
            self.state.slots.append(slot)
            task.slots.append(slot)
        self._due += task.slots
        self.state.check_ends = True

    def _start_worker(self, slot: WorkerSlot) -> None:
        slot.begin_generation()
        spec = self.state.plan.worker_spec(slot.task.plan, slot.name, slot.index)
        try:
            slot.pid = slot.task.engine.start(spec, slot.generation)
        except SpawnError as error:
            slot.phase = Phase.GONE
            fail_task(self.state, slot.task, str(error))

    def on_ready(self, slot: WorkerSlot, message: Ready) -> None:
        """Give work to a worker that is set up."""
        if slot.phase is Phase.STARTING:
            slot.phase = Phase.READY
        slot.task.update_free_slot(slot)
        slot.task.accepting_workers = None
        slot.task.failed_starts = 0
        self.state.topology.mark_ready(slot.task.name)
        self.state.check_starts = True
        now = self.state.clock.now()
        slot.time_account.enter_state(EXECUTING if slot.is_working else WAITING_FOR_REASON, now)
        self.state.emit(events.WorkerReady(now, slot.task.name, slot.name, message.pid))
        self.timeout_watchdog.watch_lease(slot.task)
        if slot.task.dismissed:
            dismiss_worker(self.state, slot)
        elif self.state.stopping and slot.task.is_source:
            slot.task.engine.send(slot.index, Stop(inputs_ended=False))
        self.state.dirty_tasks.add_tasks((slot.task.name,))

    # -- ending --------------------------------------------------------------------------------

    def on_finished(self, slot: WorkerSlot, message: Finished) -> None:
        """Take the result of a worker whose work is over, and await its end."""
        task = slot.task
        if message.returned_early and not task.dismissed and not task.is_source:
            task.returned_early = True
        slot.ended_by_itself = not message.returned_early
        if message.result is not None:
            task.results[slot.name] = message.result
        slot.phase = Phase.FINISHED
        self.dispatcher.forfeit_credit(task, slot)
        now = self.state.clock.now()
        slot.time_account.enter_state(ENDED, now)
        self._exit_deadlines[slot.index] = now + self.state.plan.settings.grace + _EXIT_GRACE
        self.state.emit(events.WorkerEnded(now, task.name, slot.name, message.result))

    def on_failed(self, slot: WorkerSlot, message: Failed) -> None:
        """Restart a worker that cannot go on, or fail its task."""
        task, error = slot.task, message.error
        now = self.state.clock.now()
        slot.phase = Phase.FINISHED
        slot.time_account.enter_state(ENDED, now)
        self._exit_deadlines[slot.index] = now + self.state.plan.settings.grace + _EXIT_GRACE
        again, attempt = self._another_try(slot, message)
        word = "again" if again else "fatal"
        self.state.emit(events.ItemFailed(now, task.name, slot.name, "", str(error), error.traceback, attempt, word))
        slot.ended_by_itself = not again
        if again:
            slot.restart_requested = True
            slot.start_at = now + self.retry_policy.retry_pause(task, attempt, message.retry_after)
            return
        if message.failed_phase == "call" and task.is_source and task.plan.config.on_error == "skip":
            return  # the file says to go on without it: what it has sent counts
        what = {"load": "its function could not be loaded", "setup": "its set-up failed", "call": "it raised"}
        self.shutdown.fail_or_stop_run(task, f"{what.get(message.failed_phase, 'its tear-down failed')}: {error}")

    def _another_try(self, slot: WorkerSlot, message: Failed) -> tuple[bool, int]:
        """Return True if a worker that could not go on is started once more, and which try this was."""
        task = slot.task
        if self.state.stopping:
            return False, slot.attempt
        if message.failed_phase == "setup":
            task.failed_starts += 1
            return task.failed_starts < MAX_FAILED_STARTS, task.failed_starts
        attempt = slot.attempt
        if message.failed_phase != "call" or not task.is_source or slot.received_items or message.verdict == "reject":
            return False, attempt
        slot.attempt += 1
        return may_retry(task.plan.config, attempt, message.error, asked=message.verdict == "retry"), attempt

    # -- deaths --------------------------------------------------------------------------------

    def on_death(self, event: WorkerExited) -> None:
        """Settle what follows from a worker that is gone for certain."""
        slot = self.state.slots[event.slot]
        if slot.generation != event.generation:
            return
        task = slot.task
        self._exit_deadlines.pop(slot.index, None)
        expected = slot.phase is Phase.FINISHED or bool(task.failure_reason) or self.state.killing
        again = (slot.restart_requested or (slot.retiring and not task.dismissed)) and not task.failure_reason
        was, slot.phase = slot.phase, Phase.WAITING if again else Phase.GONE
        task.accepting_workers = None
        if expected or (again and slot.retiring):
            self._release_leases(slot)
        else:
            self.crash_handler.handle_crash(slot, event, was=was)
        if slot.phase is Phase.WAITING:
            self._due.append(slot)
        slot.time_account.enter_state(STARTING if slot.phase is Phase.WAITING else ENDED, self.state.clock.now())
        finish_if_over(self.state, task)
        dirty = self.state.dirty_tasks
        dirty.add_tasks((task.name,))
        dirty.add_input_readers(task.name)
        dirty.add_input_writers(task.name)
        self.state.check_ends = True

    def _release_leases(self, slot: WorkerSlot) -> None:
        for lease in slot.leases:
            self.dispatcher.forget_lease(lease)
            self.state.ledger.release_lease(lease)
        slot.leases.clear()
        self.dispatcher.forfeit_credit(slot.task, slot)
