"""Workers: started, ready, dismissed, finished, dead, replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.chunking import slice_for
from runner.errors import SpawnError
from runner.supervisor.hearing import Evidence
from runner.supervisor.state import Phase, Slot
from runner.topology import Stage
from runner.transport.messages import LetterText, Stop

if TYPE_CHECKING:
    from runner.fleets.base import Died
    from runner.ledger import Settlement
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.state import TaskState
    from runner.transport.messages import Failed, Finished, Ready

#: Deaths of workers that an item may cause before it is a dead letter.
CRASHES = 3
#: Deaths before the first worker of a task was ready: its set-up is broken.
BOOTS = 3
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 5.0
#: A worker that said it has finished gets so long to end, then its group is killed.
_FAREWELL = 5.0


class Staff:
    """All workers of a run."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.slots: list[Slot] = []
        self._farewells: dict[int, float] = {}

    # -- starting ------------------------------------------------------------------------------

    def work(self, now: float) -> None:
        """Start the tasks that may start, the workers that are due, and end those that linger."""
        topology = self.supervisor.topology
        if not self.supervisor.ends.stopping:
            while startable := topology.startable():
                for name in startable:
                    self._start_task(self.supervisor.tasks[name], now)
        for name in topology.unstartable():
            self.supervisor.tasks[name].failed = "a task that it comes after has not ended as it must"
            self.supervisor.over(name, Stage.SKIPPED, self.supervisor.tasks[name].failed)
        for slot in self.slots:
            if slot.phase is Phase.WAITING and slot.start_at <= now:
                self._start(slot)
        for index, until in list(self._farewells.items()):
            if until <= now:
                del self._farewells[index]
                self.slots[index].task.fleet.kill(index)

    def next_time(self) -> float | None:
        """When the next worker is to be started, or ended."""
        starts = [slot.start_at for slot in self.slots if slot.phase is Phase.WAITING]
        return min([*starts, *self._farewells.values()], default=None)

    def _start_task(self, task: TaskState, now: float) -> None:
        names = task.plan.config.workers.names
        self.supervisor.topology.started(task.name)
        task.grain.slice = slice_for(len(names))
        self.supervisor.emit(events.TaskStarted(now, task.name, names))
        for name in names:
            slot = Slot(len(self.slots), name, task, start_at=now)
            self.slots.append(slot)
            task.slots.append(slot)
        self.supervisor.check_ends = True

    def _start(self, slot: Slot) -> None:
        slot.life += 1
        slot.phase = Phase.STARTING
        slot.credit = slot.received = 0
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
        slot.task.boots_lost = 0
        topology = self.supervisor.topology
        topology.is_ready(slot.task.name)
        now = self.supervisor.clock.now()
        self.supervisor.emit(events.WorkerReady(now, slot.task.name, slot.name, message.pid))
        if slot.task.ended:
            self._dismiss(slot, ended=True)
        self.supervisor.touch(slot.task.name)

    # -- ending --------------------------------------------------------------------------------

    def dismiss(self, task: TaskState, *, ended: bool) -> None:
        """No more work will come for this task."""
        if task.ended:
            return
        task.ended = True
        for slot in task.slots:
            if slot.phase is Phase.READY:
                self._dismiss(slot, ended=ended)
            elif slot.phase is Phase.WAITING:
                slot.phase = Phase.GONE
        self._look_over(task)

    def _dismiss(self, slot: Slot, *, ended: bool) -> None:
        if ended or not slot.task.is_source:
            slot.phase = Phase.ENDING
        slot.task.fleet.send(slot.index, Stop(ended))

    def ask_to_stop(self, task: TaskState) -> None:
        """The run is stopping: a source ends at its next item; a call is told through `Context.stopping`."""
        for slot in task.slots:
            if slot.phase is Phase.READY:
                task.fleet.send(slot.index, Stop(ended=False))

    def finished(self, slot: Slot, message: Finished) -> None:
        """A worker's work is over."""
        task = slot.task
        if message.early and not task.ended:
            task.early = True
        if message.result is not None:
            task.results[slot.name] = message.result
        slot.phase = Phase.FINISHED
        self.supervisor.feeder.forfeit(task, slot)
        now = self.supervisor.clock.now()
        self._farewells[slot.index] = now + _FAREWELL
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
            elif not task.fleet.kill(slot.index):
                task.fleet.send(slot.index, Stop(ended=True))  # a thread ends after the item at hand
                slot.phase = Phase.ENDING
        self._look_over(task)

    def failed(self, slot: Slot, message: Failed) -> None:
        """A worker cannot go on, and says why."""
        task, error = slot.task, message.error
        now = self.supervisor.clock.now()
        slot.phase = Phase.FINISHED
        self._farewells[slot.index] = now + _FAREWELL
        boots = message.where == "setup" and task.boots_lost + 1 < BOOTS
        attempt = task.boots_lost + 1
        self.supervisor.emit(
            events.ItemFailed(
                now, task.name, slot.name, "", str(error), error.traceback, attempt, "again" if boots else "fatal"
            )
        )
        if boots:
            task.boots_lost += 1
            slot.killed_for = "again"
            slot.start_at = now + _FIRST_PAUSE * 2**task.boots_lost
            return
        what = {"load": "its function could not be loaded", "setup": "its set-up failed", "call": "it raised"}
        why = f"{what.get(message.where, 'its tear-down failed')}: {error}"
        self._fatal(task, why)

    def _fatal(self, task: TaskState, why: str) -> None:
        """What cannot be blamed on an item: `on_error` of a task decides, without inputs "fail" unless it says else."""
        if task.plan.config.on_error == "stop":
            self.supervisor.ends.stop_for(f"task `{task.name}`: {why}", failed=task)
        self.fail(task, why)

    # -- deaths --------------------------------------------------------------------------------

    def buried(self, event: Died) -> None:
        """A worker is gone for certain."""
        slot = self.slots[event.slot]
        if slot.life != event.life:
            return
        task = slot.task
        self._farewells.pop(slot.index, None)
        expected = slot.phase is Phase.FINISHED or bool(task.failed) or self.supervisor.ends.dying
        again = slot.killed_for == "again" and not task.failed
        was_ready = slot.phase is not Phase.STARTING
        slot.phase = Phase.WAITING if again else Phase.GONE
        slot.killed_for = ""
        if expected:
            self._release(slot)
        else:
            self._crashed(slot, event, was_ready=was_ready)
        self._look_over(task)
        self.supervisor.touch(task.name)
        self.supervisor.touch_writers(task.name)
        self.supervisor.check_ends = True

    def _release(self, slot: Slot) -> None:
        for lease in slot.leases:
            self.supervisor.feeder.settled(lease)
            self.supervisor.ledger.release(lease)
        slot.leases.clear()
        self.supervisor.feeder.forfeit(slot.task, slot)

    def _crashed(self, slot: Slot, event: Died, *, was_ready: bool) -> None:
        """Nobody told it to end. Blame the item it executed, give everything again, and replace it."""
        task, now = slot.task, self.supervisor.clock.now()
        why = str(event.death)
        item, blamed = self._blame(slot, event, why)
        restart = self._may_restart(slot, now, was_ready=was_ready, blamed=blamed)
        self.supervisor.emit(events.WorkerDied(now, task.name, slot.name, slot.pid, why, item, restart))
        if restart:
            slot.phase = Phase.WAITING
            slot.start_at = now if blamed else now + self._pause(task)
        else:
            self.fail(task, self._why_failed(slot, why, was_ready=was_ready))

    def _blame(self, slot: Slot, event: Died, why: str) -> tuple[str, bool]:
        ledger, task = self.supervisor.ledger, slot.task
        item, blamed = "", False
        for lease_id in list(slot.leases):
            self.supervisor.feeder.settled(lease_id)
            lease = ledger.leases[lease_id]
            if task.plan.flying:  # all of them were in flight: each is suspect, and is given again alone
                suspects, finished = range(lease.count), 0
            elif lease_id == event.position.lease and event.position.index < lease.count:
                width = task.plan.config.batch.items if task.plan.config.batch else 1
                at = event.position.index
                suspects, finished = range(at, min(at + width, lease.count)), at
            else:
                ledger.release(lease_id)
                continue
            _, piece = next(iter(lease.locate(suspects.start, 1)))
            item, blamed = f"{piece.chunk.number}.{piece.start}", True
            settlement = ledger.crash(lease_id, suspects, finished, CRASHES, self._evidence(slot, why, piece.attempts))
            assert settlement is not None
            self._after_crash(settlement)
        slot.leases.clear()
        self.supervisor.feeder.forfeit(task, slot)
        return item, blamed

    def _after_crash(self, settlement: Settlement) -> None:
        for queue in settlement.fed:
            self.supervisor.touch_queue(queue)
        self.supervisor.hearing.bury_items(settlement)

    def _evidence(self, slot: Slot, why: str, attempts: int) -> Evidence:
        error = f"WorkerDied: {CRASHES} workers died while they executed it; the last was {why}"
        text = LetterText(error, "", slot.task.name, slot.name, attempts + CRASHES)
        return Evidence(text, "")

    def _may_restart(self, slot: Slot, now: float, *, was_ready: bool, blamed: bool) -> bool:
        task = slot.task
        if task.is_source and self.supervisor.ledger.read[task.name]:
            return False  # nobody can tell a source to go on where it was
        if blamed:
            return True
        if not was_ready:
            task.boots_lost += 1
            return task.boots_lost < BOOTS
        restarts = task.plan.config.restarts
        task.deaths.append(now)
        while task.deaths and task.deaths[0] < now - restarts.window:
            task.deaths.popleft()
        return len(task.deaths) <= restarts.times

    def _pause(self, task: TaskState) -> float:
        return min(_MOST_PAUSE, _FIRST_PAUSE * 2.0 ** (len(task.deaths) + task.boots_lost - 1))

    def _why_failed(self, slot: Slot, why: str, *, was_ready: bool) -> str:
        task = slot.task
        if task.is_source and self.supervisor.ledger.read[task.name]:
            sent = self.supervisor.ledger.read[task.name]
            return (
                f"worker `{slot.name}` {why} after it had sent {sent:,} items; a source cannot go on where it was"
            )
        if not was_ready:
            return f"worker `{slot.name}` {why} before it was ready, {BOOTS} times in a row"
        restarts = task.plan.config.restarts
        return f"worker `{slot.name}` {why}; more than {restarts.times} such deaths within {restarts.window:g} s"

    def consider_lifespan(self, slot: Slot) -> None:
        """Replace a worker that has done its share (`lifespan`)."""

    def _look_over(self, task: TaskState) -> None:
        """A task is over when all its workers are gone."""
        topology = self.supervisor.topology
        if topology.is_over(task.name) or topology.stages[task.name] is Stage.WAITING:
            return
        if all(slot.phase is Phase.GONE for slot in task.slots):
            self._judge_end(task)

    def _judge_end(self, task: TaskState) -> None:
        if task.early and not task.failed and not self.supervisor.ends.stopping:
            left = self.supervisor.ledger.queued(task.name)
            inputs = ", ".join(f"`{queue}`" for queue in task.plan.config.inputs)
            open_ = not all(self.supervisor.topology.closed(queue) for queue in task.plan.config.inputs)
            if left or open_:
                task.failed = f"its function returned before its input {inputs} had ended; {left:,} items are left in it"
        self.supervisor.over(task.name, Stage.FAILED if task.failed else Stage.OK, task.failed)
