"""Workers: started, ready, dismissed, finished, dead, replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.chunk_sizing import slice_for
from runner.errors import SpawnError
from runner.supervisor.crashes import BOOTS
from runner.supervisor.run_state import Phase, Slot
from runner.supervisor.time_accounting import ENDED, EXECUTING, ITEM, ROOM, STARTING, WAITS, Hours
from runner.topology import Stage
from runner.transport.messages import Stop
from runner.worker import retryable

if TYPE_CHECKING:
    from runner.engines.base import Died
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.run_state import TaskState
    from runner.transport.messages import Failed, Finished, Ready

#: A worker that said it has finished has the grace to end, and cuts off itself what takes longer; one that has not
#: ended so long after that is killed with its group.
_FAREWELL = 5.0


class Staff:
    """All workers of a run."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.slots: list[Slot] = []
        #: Whether a task may have become startable, or unstartable.
        self.look_for_tasks = True
        self._due: list[Slot] = []
        self._farewells: dict[int, float] = {}

    # -- starting ------------------------------------------------------------------------------

    def work(self, now: float) -> None:
        """Start the tasks that may start, the workers that are due, and end those that linger."""
        if self.look_for_tasks:
            self.look_for_tasks = False
            self._start_tasks(now)
        if self._due:
            for slot in self._due:
                if slot.phase is Phase.WAITING and slot.start_at <= now:
                    self._start(slot)
            self._due = [slot for slot in self._due if slot.phase is Phase.WAITING]
        if self._farewells:
            for index in [index for index, until in self._farewells.items() if until <= now]:
                del self._farewells[index]
                self.slots[index].task.fleet.kill(index)

    def _start_tasks(self, now: float) -> None:
        topology = self.supervisor.topology
        if not self.supervisor.ends.stopping:
            while startable := topology.startable():
                for name in startable:
                    self._start_task(self.supervisor.tasks[name], now)
        for name in topology.unstartable():
            self.supervisor.tasks[name].failed = "a task that it comes after has not ended as it must"
            self.supervisor.over(name, Stage.SKIPPED, self.supervisor.tasks[name].failed)

    def next_time(self) -> float | None:
        """When the next worker is to be started, or ended."""
        if not self._due and not self._farewells:
            return None
        starts = [slot.start_at for slot in self._due if slot.phase is Phase.WAITING]
        return min([*starts, *self._farewells.values()], default=None)

    def _start_task(self, task: TaskState, now: float) -> None:
        names = task.plan.config.workers.names
        self.supervisor.topology.started(task.name)
        task.began_at = now
        task.grain.slice = slice_for(len(names))
        self.supervisor.emit(events.TaskStarted(now, task.name, names))
        for name in names:
            hours = Hours(task.waiting, self.supervisor.began, now, ROOM if task.is_source else ITEM)
            slot = Slot(len(self.slots), name, task, start_at=now, hours=hours)
            self.slots.append(slot)
            task.slots.append(slot)
        self._due += task.slots
        self.supervisor.check_ends = True

    def _start(self, slot: Slot) -> None:
        slot.begin()
        spec = self.supervisor.plan.worker(slot.task.plan, slot.name, slot.index)
        try:
            slot.pid = slot.task.fleet.start(spec, slot.life)
        except SpawnError as error:
            slot.phase = Phase.GONE
            self.fail(slot.task, str(error))

    def ready(self, slot: Slot, message: Ready) -> None:
        """A worker is set up."""
        if slot.phase is Phase.STARTING:
            slot.phase = Phase.READY
        slot.task.may_take(slot)
        slot.task.takers = None
        slot.task.boots_lost = 0
        topology = self.supervisor.topology
        topology.is_ready(slot.task.name)
        self.look_for_tasks = True
        now = self.supervisor.clock.now()
        slot.hours.turn_to(EXECUTING if slot.working else WAITS, now)
        self.supervisor.emit(events.WorkerReady(now, slot.task.name, slot.name, message.pid))
        self.supervisor.watch.granted(slot.task)
        if slot.task.ended:
            self._dismiss(slot)
        elif self.supervisor.ends.stopping and slot.task.is_source:
            slot.task.fleet.send(slot.index, Stop(ended=False))
        self.supervisor.touch(slot.task.name)

    # -- ending --------------------------------------------------------------------------------

    def dismiss(self, task: TaskState) -> None:
        """No more work will come for this task: its inputs have ended, or nobody will take what it makes."""
        if task.ended:
            return
        task.ended = True
        for slot in task.slots:
            if slot.phase is Phase.READY:
                self._dismiss(slot)
            elif slot.phase is Phase.WAITING and not self._owes_a_life(slot):
                slot.phase = Phase.GONE
        self._look_over(task)

    def _owes_a_life(self, slot: Slot) -> bool:
        """Return True if the worker has to be started although no item will come.

        A class's set-up and tear-down do something of their own (a sink opens its file, and puts it in its place):
        when the last life failed in its set-up, or died, that has not been done.
        """
        return slot.task.plan.shape.kind == "class" and not (slot.retiring or self.supervisor.ends.stopping)

    def _dismiss(self, slot: Slot) -> None:
        if slot.task.is_source:  # it ends at its next item, and says so itself
            slot.task.fleet.send(slot.index, Stop(ended=False))
        else:
            slot.phase = Phase.ENDING
            slot.hours.turn_to(ENDED, self.supervisor.clock.now())
            if self.supervisor.ends.stopping or self._fed_by_failed(slot.task):  # so that its tear-down knows
                slot.task.fleet.send(slot.index, Stop(ended=False))
            slot.task.fleet.send(slot.index, Stop(ended=True))

    def _fed_by_failed(self, task: TaskState) -> bool:
        """Whether a task has failed whose items could have come here, directly or through others."""
        return any(self.supervisor.tasks[name].failed for name in self.supervisor.topology.leading_to([task.name]))

    def ask_to_stop(self, task: TaskState) -> None:
        """The run is stopping: a source ends at its next item; a call is told through `Context.stopping`."""
        for slot in task.slots:
            if slot.phase is Phase.READY:
                task.fleet.send(slot.index, Stop(ended=False))

    def finished(self, slot: Slot, message: Finished) -> None:
        """A worker's work is over."""
        task = slot.task
        if message.early and not task.ended and not task.is_source:
            task.early = True
        slot.done = not message.early
        if message.result is not None:
            task.results[slot.name] = message.result
        slot.phase = Phase.FINISHED
        self.supervisor.feeder.forfeit(task, slot)
        now = self.supervisor.clock.now()
        slot.hours.turn_to(ENDED, now)
        self._farewells[slot.index] = now + self.supervisor.plan.settings.grace + _FAREWELL
        self.supervisor.emit(events.WorkerEnded(now, task.name, slot.name, message.result))

    def fail(self, task: TaskState, why: str) -> None:
        """The task has failed: its workers end, its outputs close, tasks after it do not start."""
        if task.failed:
            return
        task.failed = why
        task.ended = True
        for slot in task.slots:
            if slot.phase in {Phase.WAITING, Phase.GONE}:
                slot.phase = Phase.GONE
                continue
            if not task.fleet.kill(slot.index):
                task.fleet.send(slot.index, Stop(ended=False))
                task.fleet.send(slot.index, Stop(ended=True))  # a thread ends after the item at hand
            slot.phase = Phase.ENDING
        self._look_over(task)

    def failed(self, slot: Slot, message: Failed) -> None:
        """A worker cannot go on, and says why."""
        task, error = slot.task, message.error
        now = self.supervisor.clock.now()
        slot.phase = Phase.FINISHED
        slot.hours.turn_to(ENDED, now)
        self._farewells[slot.index] = now + self.supervisor.plan.settings.grace + _FAREWELL
        again, attempt = self._another_try(slot, message)
        word = "again" if again else "fatal"
        self.supervisor.emit(
            events.ItemFailed(now, task.name, slot.name, "", str(error), error.traceback, attempt, word)
        )
        slot.done = not again
        if again:
            slot.again = True
            slot.start_at = now + self.supervisor.verdicts.pause(task, attempt, message.after)
            return
        if message.where == "call" and task.is_source and task.plan.config.on_error == "skip":
            return  # the file says to go on without it: what it has sent counts
        what = {"load": "its function could not be loaded", "setup": "its set-up failed", "call": "it raised"}
        self.fatal(task, f"{what.get(message.where, 'its tear-down failed')}: {error}")

    def _another_try(self, slot: Slot, message: Failed) -> tuple[bool, int]:
        """Whether a worker that could not go on is started once more, and which try this was."""
        task, config = slot.task, slot.task.plan.config
        if self.supervisor.ends.stopping:
            return False, slot.attempt
        if message.where == "setup":
            task.boots_lost += 1
            return task.boots_lost < BOOTS, task.boots_lost
        attempt = slot.attempt
        if message.where != "call" or not task.is_source or slot.received or message.verdict == "reject":
            return False, attempt
        slot.attempt += 1
        may = message.verdict == "retry" or retryable(config.retry_on, message.error)
        return may and attempt < config.attempts, attempt

    def fatal(self, task: TaskState, why: str) -> None:
        """What cannot be blamed on an item of a queue: `on_error = "stop"` ends the run, everything else the task."""
        if task.plan.config.on_error == "stop":
            self.supervisor.ends.stop_for(f"task `{task.name}`: {why}", failed=task)
        self.fail(task, why)

    # -- deaths --------------------------------------------------------------------------------

    def buried(self, event: Died) -> None:
        """A worker is gone for certain."""
        slot = self.slots[event.slot]
        if slot.life != event.life or self.supervisor.looks.ask(slot, event):
            return
        task = slot.task
        self._farewells.pop(slot.index, None)
        expected = slot.phase is Phase.FINISHED or bool(task.failed) or self.supervisor.ends.dying
        again = (slot.again or (slot.retiring and not task.ended)) and not task.failed
        was, slot.phase = slot.phase, Phase.WAITING if again else Phase.GONE
        task.takers = None
        if expected or (again and slot.retiring):
            self._release(slot)
        else:
            self.supervisor.deaths.crashed(slot, event, was=was)
        if slot.phase is Phase.WAITING:
            self._due.append(slot)
        slot.hours.turn_to(STARTING if slot.phase is Phase.WAITING else ENDED, self.supervisor.clock.now())
        self._look_over(task)
        self.supervisor.touch(task.name)
        self.supervisor.touch_readers(task.name)
        self.supervisor.touch_writers(task.name)
        self.supervisor.check_ends = True

    def _release(self, slot: Slot) -> None:
        for lease in slot.leases:
            self.supervisor.feeder.settled(lease)
            self.supervisor.ledger.release(lease)
        slot.leases.clear()
        self.supervisor.feeder.forfeit(slot.task, slot)

    def _look_over(self, task: TaskState) -> None:
        """A task is over when all its workers are gone."""
        topology = self.supervisor.topology
        if topology.is_over(task.name) or topology.stages[task.name] is Stage.WAITING:
            return
        slots = task.slots
        while task.gone < len(slots) and slots[task.gone].phase is Phase.GONE:
            task.gone += 1
        if task.gone == len(slots):
            self._judge_end(task)

    def _judge_end(self, task: TaskState) -> None:
        if task.early and not task.failed and not self.supervisor.ends.stopping:
            left = self.supervisor.ledger.queued(task.name)
            inputs = ", ".join(f"`{queue}`" for queue in task.plan.config.inputs)
            open_ = not all(self.supervisor.topology.closed(queue) for queue in task.plan.config.inputs)
            if left or open_:
                task.failed = (
                    f"its function returned before its input {inputs} had ended; {left:,} items are left in it"
                )
        self.supervisor.over(task.name, Stage.FAILED if task.failed else Stage.OK, task.failed)
