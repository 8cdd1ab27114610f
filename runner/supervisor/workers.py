"""Workers: started, ready, dismissed, finished, dead, replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.chunk_sizing import time_slice_for
from runner.errors import SpawnError
from runner.supervisor.crashes import MAX_FAILED_STARTS
from runner.supervisor.run_state import Phase, WorkerSlot
from runner.supervisor.time_accounting import ENDED, EXECUTING, ITEM, ROOM, STARTING, WAITING_FOR_REASON, TimeAccount
from runner.topology import Stage
from runner.transport.messages import Stop
from runner.worker import is_retryable

if TYPE_CHECKING:
    from runner.engines.base import WorkerExited
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.run_state import TaskState
    from runner.transport.messages import Failed, Finished, Ready

#: A worker that said it has finished has the grace to end, and cuts off itself what takes longer; one that has not
#: ended so long after that is killed with its group.
_EXIT_GRACE = 5.0


class WorkerPool:
    """All workers of a run."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.slots: list[WorkerSlot] = []
        #: Whether a task may have become startable, or unstartable.
        self.look_for_tasks = True
        self._due: list[WorkerSlot] = []
        self._exit_deadlines: dict[int, float] = {}

    # -- starting ------------------------------------------------------------------------------

    def start_due(self, now: float) -> None:
        """Start the tasks that may start, the workers that are due, and end those that linger."""
        if self.look_for_tasks:
            self.look_for_tasks = False
            self._start_tasks(now)
        if self._due:
            for slot in self._due:
                if slot.phase is Phase.WAITING and slot.start_at <= now:
                    self._start(slot)
            self._due = [slot for slot in self._due if slot.phase is Phase.WAITING]
        if self._exit_deadlines:
            for index in [index for index, until in self._exit_deadlines.items() if until <= now]:
                del self._exit_deadlines[index]
                self.slots[index].task.engine.kill(index)

    def _start_tasks(self, now: float) -> None:
        topology = self.supervisor.topology
        if not self.supervisor.shutdown.stopping:
            while startable := topology.startable_tasks():
                for name in startable:
                    self._start_task(self.supervisor.tasks[name], now)
        for name in topology.unstartable_tasks():
            self.supervisor.tasks[name].failure_reason = "a task that it comes after has not ended as it must"
            self.supervisor.finish_task(name, Stage.SKIPPED, self.supervisor.tasks[name].failure_reason)

    def next_time(self) -> float | None:
        """When the next worker is to be started, or ended."""
        if not self._due and not self._exit_deadlines:
            return None
        starts = [slot.start_at for slot in self._due if slot.phase is Phase.WAITING]
        return min([*starts, *self._exit_deadlines.values()], default=None)

    def _start_task(self, task: TaskState, now: float) -> None:
        names = task.plan.config.workers.names
        self.supervisor.topology.mark_started(task.name)
        task.began_at = now
        task.chunk_sizer.time_slice = time_slice_for(len(names))
        self.supervisor.emit(events.TaskStarted(now, task.name, names))
        for name in names:
            hours = TimeAccount(task.wait_reason, self.supervisor.began_at, now, ROOM if task.is_source else ITEM)
            slot = WorkerSlot(len(self.slots), name, task, start_at=now, time_account=hours)
            self.slots.append(slot)
            task.slots.append(slot)
        self._due += task.slots
        self.supervisor.check_ends = True

    def _start(self, slot: WorkerSlot) -> None:
        slot.begin_generation()
        spec = self.supervisor.plan.worker_spec(slot.task.plan, slot.name, slot.index)
        try:
            slot.pid = slot.task.engine.start(spec, slot.generation)
        except SpawnError as error:
            slot.phase = Phase.GONE
            self.fail_task(slot.task, str(error))

    def on_ready(self, slot: WorkerSlot, message: Ready) -> None:
        """A worker is set up."""
        if slot.phase is Phase.STARTING:
            slot.phase = Phase.READY
        slot.task.update_free_slot(slot)
        slot.task.accepting_workers = None
        slot.task.failed_starts = 0
        topology = self.supervisor.topology
        topology.mark_ready(slot.task.name)
        self.look_for_tasks = True
        now = self.supervisor.clock.now()
        slot.time_account.enter_state(EXECUTING if slot.is_working else WAITING_FOR_REASON, now)
        self.supervisor.emit(events.WorkerReady(now, slot.task.name, slot.name, message.pid))
        self.supervisor.timeout_watchdog.watch_lease(slot.task)
        if slot.task.dismissed:
            self._dismiss(slot)
        elif self.supervisor.shutdown.stopping and slot.task.is_source:
            slot.task.engine.send(slot.index, Stop(inputs_ended=False))
        self.supervisor.mark_dirty(slot.task.name)

    # -- ending --------------------------------------------------------------------------------

    def dismiss_task(self, task: TaskState) -> None:
        """No more work will come for this task: its inputs have ended, or nobody will take what it makes."""
        if task.dismissed:
            return
        task.dismissed = True
        for slot in task.slots:
            if slot.phase is Phase.READY:
                self._dismiss(slot)
            elif slot.phase is Phase.WAITING and not self._owes_a_life(slot):
                slot.phase = Phase.GONE
        self._look_over(task)

    def _owes_a_life(self, slot: WorkerSlot) -> bool:
        """Return True if the worker has to be started although no item will come.

        A class's set-up and tear-down do something of their own (a sink opens its file, and puts it in its place):
        when the last life failed in its set-up, or died, that has not been done.
        """
        return slot.task.plan.shape.kind == "class" and not (slot.retiring or self.supervisor.shutdown.stopping)

    def _dismiss(self, slot: WorkerSlot) -> None:
        if slot.task.is_source:  # it ends at its next item, and says so itself
            slot.task.engine.send(slot.index, Stop(inputs_ended=False))
        else:
            slot.phase = Phase.ENDING
            slot.time_account.enter_state(ENDED, self.supervisor.clock.now())
            if self.supervisor.shutdown.stopping or self._fed_by_failed(slot.task):  # so that its tear-down knows
                slot.task.engine.send(slot.index, Stop(inputs_ended=False))
            slot.task.engine.send(slot.index, Stop(inputs_ended=True))

    def _fed_by_failed(self, task: TaskState) -> bool:
        """Whether a task has failed whose items could have come here, directly or through others."""
        return any(
            self.supervisor.tasks[name].failure_reason for name in self.supervisor.topology.leading_to([task.name])
        )

    def ask_to_stop(self, task: TaskState) -> None:
        """The run is stopping: a source ends at its next item; a call is told through `Context.stopping`."""
        for slot in task.slots:
            if slot.phase is Phase.READY:
                task.engine.send(slot.index, Stop(inputs_ended=False))

    def on_finished(self, slot: WorkerSlot, message: Finished) -> None:
        """A worker's work is over."""
        task = slot.task
        if message.returned_early and not task.dismissed and not task.is_source:
            task.returned_early = True
        slot.ended_by_itself = not message.returned_early
        if message.result is not None:
            task.results[slot.name] = message.result
        slot.phase = Phase.FINISHED
        self.supervisor.dispatcher.forfeit_credit(task, slot)
        now = self.supervisor.clock.now()
        slot.time_account.enter_state(ENDED, now)
        self._exit_deadlines[slot.index] = now + self.supervisor.plan.settings.grace + _EXIT_GRACE
        self.supervisor.emit(events.WorkerEnded(now, task.name, slot.name, message.result))

    def fail_task(self, task: TaskState, why: str) -> None:
        """The task has failed: its workers end, its outputs close, tasks after it do not start."""
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
        self._look_over(task)

    def on_failed(self, slot: WorkerSlot, message: Failed) -> None:
        """A worker cannot go on, and says why."""
        task, error = slot.task, message.error
        now = self.supervisor.clock.now()
        slot.phase = Phase.FINISHED
        slot.time_account.enter_state(ENDED, now)
        self._exit_deadlines[slot.index] = now + self.supervisor.plan.settings.grace + _EXIT_GRACE
        again, attempt = self._another_try(slot, message)
        word = "again" if again else "fatal"
        self.supervisor.emit(
            events.ItemFailed(now, task.name, slot.name, "", str(error), error.traceback, attempt, word)
        )
        slot.ended_by_itself = not again
        if again:
            slot.restart_requested = True
            slot.start_at = now + self.supervisor.retry_policy.retry_pause(task, attempt, message.retry_after)
            return
        if message.failed_phase == "call" and task.is_source and task.plan.config.on_error == "skip":
            return  # the file says to go on without it: what it has sent counts
        what = {"load": "its function could not be loaded", "setup": "its set-up failed", "call": "it raised"}
        self.fail_or_stop_run(task, f"{what.get(message.failed_phase, 'its tear-down failed')}: {error}")

    def _another_try(self, slot: WorkerSlot, message: Failed) -> tuple[bool, int]:
        """Whether a worker that could not go on is started once more, and which try this was."""
        task, config = slot.task, slot.task.plan.config
        if self.supervisor.shutdown.stopping:
            return False, slot.attempt
        if message.failed_phase == "setup":
            task.failed_starts += 1
            return task.failed_starts < MAX_FAILED_STARTS, task.failed_starts
        attempt = slot.attempt
        if message.failed_phase != "call" or not task.is_source or slot.received_items or message.verdict == "reject":
            return False, attempt
        slot.attempt += 1
        may = message.verdict == "retry" or is_retryable(config.retry_on, message.error)
        return may and attempt < config.attempts, attempt

    def fail_or_stop_run(self, task: TaskState, why: str) -> None:
        """What cannot be blamed on an item of a queue: `on_error = "stop"` ends the run, everything else the task."""
        if task.plan.config.on_error == "stop":
            self.supervisor.shutdown.stop_for_task(f"task `{task.name}`: {why}", failed=task)
        self.fail_task(task, why)

    # -- deaths --------------------------------------------------------------------------------

    def on_death(self, event: WorkerExited) -> None:
        """A worker is gone for certain."""
        slot = self.slots[event.slot]
        if slot.generation != event.generation or self.supervisor.suspect_readers.ask_reader(slot, event):
            return
        task = slot.task
        self._exit_deadlines.pop(slot.index, None)
        expected = slot.phase is Phase.FINISHED or bool(task.failure_reason) or self.supervisor.shutdown.killing
        again = (slot.restart_requested or (slot.retiring and not task.dismissed)) and not task.failure_reason
        was, slot.phase = slot.phase, Phase.WAITING if again else Phase.GONE
        task.accepting_workers = None
        if expected or (again and slot.retiring):
            self._release(slot)
        else:
            self.supervisor.crash_handler.handle_crash(slot, event, was=was)
        if slot.phase is Phase.WAITING:
            self._due.append(slot)
        slot.time_account.enter_state(STARTING if slot.phase is Phase.WAITING else ENDED, self.supervisor.clock.now())
        self._look_over(task)
        self.supervisor.mark_dirty(task.name)
        self.supervisor.mark_input_readers(task.name)
        self.supervisor.mark_input_writers(task.name)
        self.supervisor.check_ends = True

    def _release(self, slot: WorkerSlot) -> None:
        for lease in slot.leases:
            self.supervisor.dispatcher.forget_lease(lease)
            self.supervisor.ledger.release_lease(lease)
        slot.leases.clear()
        self.supervisor.dispatcher.forfeit_credit(slot.task, slot)

    def _look_over(self, task: TaskState) -> None:
        """A task is over when all its workers are gone."""
        topology = self.supervisor.topology
        if topology.is_finished(task.name) or topology.stages[task.name] is Stage.WAITING:
            return
        slots = task.slots
        while task.first_live < len(slots) and slots[task.first_live].phase is Phase.GONE:
            task.first_live += 1
        if task.first_live == len(slots):
            self._judge_end(task)

    def _judge_end(self, task: TaskState) -> None:
        if task.returned_early and not task.failure_reason and not self.supervisor.shutdown.stopping:
            left = self.supervisor.ledger.queued_items(task.name)
            inputs = ", ".join(f"`{queue}`" for queue in task.plan.config.inputs)
            open_ = not all(self.supervisor.topology.is_closed(queue) for queue in task.plan.config.inputs)
            if left or open_:
                task.failure_reason = (
                    f"its function returned before its input {inputs} had ended; {left:,} items are left in it"
                )
        self.supervisor.finish_task(task.name, Stage.FAILED if task.failure_reason else Stage.OK, task.failure_reason)
