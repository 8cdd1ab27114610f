"""The loop: wait, hear, decide, feed."""

from __future__ import annotations

import os
import time
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from runner import events
from runner.engines.base import Died, Heard, Signalled
from runner.ledger import Ledger
from runner.supervisor import summary
from runner.supervisor.audit import Audit
from runner.supervisor.crashes import Deaths
from runner.supervisor.dead_letters import Letters
from runner.supervisor.dirty_tasks import Agenda
from runner.supervisor.dispatch import Feeder
from runner.supervisor.processors import Processors
from runner.supervisor.progress import Pulse
from runner.supervisor.rate_limit import Throttle
from runner.supervisor.replies import Hearing
from runner.supervisor.result import Result, TaskResult, exit_code
from runner.supervisor.retry_policy import Verdicts
from runner.supervisor.run_state import Phase, TaskState
from runner.supervisor.shutdown import Ends
from runner.supervisor.suspect_previews import Looks
from runner.supervisor.timeouts import Watch
from runner.supervisor.workers import Staff
from runner.topology import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.clock import Clock
    from runner.engines.base import Event, Fleet, Hub
    from runner.supervisor.plan import Plan


class Supervisor:
    """One run. `run` returns its result; `emit` is told of everything that a person may want to know.

    `fleets` maps a mode to the fleet whose workers have it. `looks`: they can show items (`WorkerSpec.looks`).
    """

    def __init__(
        self,
        plan: Plan,
        fleets: Mapping[str, Fleet],
        hub: Hub,
        clock: Clock,
        emit: Callable[[events.Event], None],
        letters: Letters | None = None,
        *,
        listening: bool = False,
        looks: bool = False,
    ) -> None:
        self.plan = plan
        self.hub = hub
        self.clock = clock
        self.emit = emit
        self.topology = plan.topology()
        self.ledger = Ledger(plan.lines(), [name for name, task in plan.tasks.items() if task.config.ordered])
        self.feeder = Feeder(self.ledger, plan.kinds, clock)
        self.tasks = {name: self._state(name, fleets) for name in plan.tasks}
        self.feeder.readers = {
            queue: [self.tasks[name] for name in names] for queue, names in self.topology.readers.items()
        }
        self.letters = letters or Letters()
        self.audit = Audit()
        self.dirty = Agenda(self.topology.depth())
        self.check_ends = True
        #: Somebody who was at work when that was last asked: an index of `staff.slots`.
        self._witness = 0
        self._batching = [task for task in self.tasks.values() if task.plan.config.batch is not None]
        self.staff = Staff(self)
        self.deaths = Deaths(self)
        self.ends = Ends(self)
        self.verdicts = Verdicts(self)
        self.watch = Watch(self)
        self.looks = Looks(self, able=looks)
        self.hearing = Hearing(self)
        self.pulse = Pulse(self, listening=listening)
        self.feeder.watch = self.watch
        #: Who knows of something that is to be done at some time, and when the first of it is.
        parts = (self.ledger.next_waking, self.ends.next_time, self.staff.next_time, self.watch.next_time)
        self._timers = (*parts, self.looks.next_time, self.feeder.next_time, self._batch_due, self.pulse.next_time)
        self._due = 0.0
        self.began = clock.now()

    def _state(self, name: str, fleets: Mapping[str, Fleet]) -> TaskState:
        task = self.plan.tasks[name]
        outputs = (*task.config.outputs, *((task.config.dead,) if task.config.dead else ()))
        bounding = tuple(queue for queue in outputs if not self.plan.queues[queue].loop)
        rate = task.config.rate
        throttle = None if rate is None else Throttle(rate.count, rate.period)
        groups, light = self.plan.groups(task.config), self.plan.light(task.config)
        return TaskState(task, fleets[task.mode], groups, bounding, throttle=throttle, light=light)

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run until every task is over."""
        self.began = self.clock.now()
        self._processors = Processors()
        head = (self.plan.run_id, self.plan.title, tuple(self.tasks))
        self.emit(events.RunStarted(self.began, *head, self.plan.described, time.time(), os.getpid()))
        self.ends.begin()
        while True:
            self._turn()
            if self.topology.all_over():
                break
            for event in self.hub.wait(self._patience()):
                self._handle(event)
            self._feed_dirty()  # before anything else is looked at: somebody may wait for just that
        return self._end()

    def _end(self) -> Result:
        now = self.clock.now()
        if self.pulse.next_time() is not None:
            self.pulse.tell(now)
        tasks = tuple(summary.tasks(self.began, self.tasks, self.ledger, self.topology, now))
        result = self._result(now)
        told = result.headline
        counts = (told.read, told.made, told.done, told.dead, told.dropped, told.left, told.repeated)
        queues = tuple(summary.queues(self.ledger, self.pulse.most))
        more = (tasks, queues, result.reasons, result.unbalanced, self._processors.idle(), self._processors.cpu())
        end = (self.plan.run_id, result.exit_code, result.seconds, *counts, *more, result.unfinished)
        self.emit(events.RunEnded(now, *end))
        return result

    def _turn(self) -> None:
        """Everything that follows from what has happened, until nothing more follows."""
        now = self.clock.now()
        self.ends.looked = now
        if now >= self._due or self.ends.halted:
            self._look(now)
        self._follow(now)
        while self._stalled() and not self.ends.dying:
            self._break_stall()
            self._follow(now)

    def _look(self, now: float) -> None:
        """What follows from the time alone."""
        self.ends.look(now)
        self.ledger_wakes(now)
        self.touch(*self.feeder.wake(now))
        self.watch.look(now)
        self.looks.look(now)
        self.pulse.look(now)

    def _follow(self, now: float) -> None:
        """Start, feed and close; the end of one task may be what another waits for."""
        while True:
            self.staff.work(now)
            if self._batching:
                self.batches(now)
            self._feed_dirty()
            if not self.check_ends:
                return
            self.check_ends = False
            self._close_exhausted()

    def _handle(self, event: Event) -> None:
        if isinstance(event, Signalled):
            self.ends.signalled(event.number)
        elif event.slot in self.looks.readers:
            self.looks.hear(event)
        elif isinstance(event, Heard):
            self.hearing.hear(event)
        elif isinstance(event, Died):
            self.staff.buried(event)

    def _patience(self) -> float | None:
        """How long there is nothing to do unless somebody speaks."""
        self._due = min([when for ask in self._timers if (when := ask()) is not None], default=inf)
        return None if self._due == inf else max(0.0, self._due - self.clock.now())

    def _batch_due(self) -> float | None:
        """When the first batch that is not full will have waited long enough.

        One that has, and was not granted in this turn, waits for a worker, or for room: somebody will speak.
        """
        due: list[float] = []
        for task in self._batching:
            batch = task.plan.config.batch
            if task.batch_since is not None and batch is not None and batch.wait is not None:
                when = task.batch_since + batch.wait
                if when > self.ends.looked:
                    due.append(when)
        return min(due, default=None)

    # -- feeding -------------------------------------------------------------------------------

    def touch(self, *names: str) -> None:
        """Something has changed for these tasks: look whether they can be fed."""
        self.dirty.add(names)

    def touch_queue(self, queue: str) -> None:
        """Something came into a queue: its readers may go on."""
        self.dirty.add(self.topology.readers[queue])

    def touch_writers(self, task: str) -> None:
        """Something left the task's inputs: whoever writes them may go on."""
        for queue in self.topology.nodes[task].inputs:
            self.dirty.add(self.topology.writers[queue])

    def touch_readers(self, task: str) -> None:
        """Something went back into the task's inputs: whoever shares them may go on."""
        for queue in self.topology.nodes[task].inputs:
            self.touch_queue(queue)

    def _feed_dirty(self) -> None:
        """Feed what is dirty, the farthest from the sources first: finish what is in flight before more comes in."""
        while (name := self.dirty.pop()) is not None:
            if self.topology.stages[name] is not Stage.RUNNING or self.ends.halted:
                continue
            task = self.tasks[name]
            before = self.ledger.leased[name]
            self.feeder.feed(task, flush=self._may_flush(task))
            if self.ledger.leased[name] != before:
                self.touch_writers(name)
            elif self.feeder.unaware and task.free[0]:
                self._touch_unaware(name)

    def _touch_unaware(self, name: str) -> None:
        """Somebody has nothing to do: sources that hold items back for this task must know."""
        for queue in self.topology.nodes[name].inputs:
            self.dirty.add(self.feeder.unaware.intersection(self.topology.writers[queue]))

    def ledger_wakes(self, now: float) -> None:
        """Items whose back-off is over may be granted again."""
        when = self.ledger.next_waking()
        if when is not None and when <= now:
            self.ledger.wake(now)
            self.touch(*(name for name, task in self.tasks.items() if not task.is_source))

    def batches(self, now: float) -> None:
        """Grant a batch that is not full once it has waited long enough, or nothing can fill it any more."""
        for task in self._batching:
            name, batch = task.name, task.plan.config.batch
            waiting = batch is not None and 0 < self.ledger.available(name) < batch.items
            if not waiting:
                task.batch_since = None
            elif task.batch_since is None:
                task.batch_since = now
                if self._may_flush(task):
                    self.touch(name)
            elif self._may_flush(task):
                self.touch(name)

    def _may_flush(self, task: TaskState) -> bool:
        batch = task.plan.config.batch
        if batch is None:
            return False
        overdue = (
            batch.wait is not None
            and task.batch_since is not None
            and self.clock.now() >= task.batch_since + batch.wait
        )
        # A queue that is full before the batch is: its writers wait, so nothing more would come.
        full = self.ledger.room(self.topology.nodes[task.name].inputs) == 0
        return overdue or full or self._nothing_can_come(task.name)

    def _nothing_can_come(self, name: str) -> bool:
        component = self.topology.component(name)
        return all(self.topology.closed(queue, component) for queue in self.topology.nodes[name].inputs) and not any(
            self.ledger.busy(other) or self._running_source(other) for other in component if other != name
        )

    def _running_source(self, name: str) -> bool:
        return self.tasks[name].is_source and not self.topology.is_over(name)

    # -- ends ----------------------------------------------------------------------------------

    def _close_exhausted(self) -> None:
        """Dismiss the tasks whose inputs have ended.

        Where workers have no tear-down, what follows them has ended as well, and is told first: a hundred threads
        that end one after the other would keep the last task waiting for its own end.
        """
        ended: list[str] = []
        while fresh := [name for name in self.topology.exhausted(self.ledger.busy) if self._is_new(name, ended)]:
            ended += fresh
            for name in fresh:
                if self.tasks[name].plan.just_calls and not self.plan.hooks:
                    self.topology.spent(name)
        for name in reversed(ended):
            self.staff.dismiss(self.tasks[name])
        for name in self.topology.in_vain():
            self.staff.dismiss(self.tasks[name])

    def _is_new(self, name: str, ended: list[str]) -> bool:
        return not self.tasks[name].ended and name not in ended

    def over(self, name: str, stage: Stage, why: str = "") -> None:
        """A task is over."""
        self.topology.over(name, stage)
        self.tasks[name].ended_at = self.clock.now()
        self.staff.look_for_tasks = True
        how = {Stage.OK: "ok", Stage.FAILED: "failed", Stage.SKIPPED: "skipped"}[stage]
        self.emit(events.TaskEnded(self.clock.now(), name, how, why))
        self.ledger.abandon(name, self.topology.ended)
        self.touch_writers(name)
        self.touch(*(reader for queue in self.topology.nodes[name].outputs for reader in self.topology.readers[queue]))
        self.check_ends = True

    def _stalled(self) -> bool:
        """Nobody is working, nothing is due, and yet it is not over: nothing will ever happen again."""
        if self.ledger.leases or self.dirty or self.check_ends or self.topology.all_over():
            return False
        if self._anybody_works():
            return False
        timers = (self.ledger.next_waking(), self.staff.next_time(), self.feeder.next_time(), self._batch_due())
        return all(when is None for when in timers)

    def _anybody_works(self) -> bool:
        """Who was at work last time is asked first, then who comes after."""
        slots = self.staff.slots
        for at in chain(range(self._witness, len(slots)), range(self._witness)):
            if slots[at].working:
                self._witness = at
                return True
        return False

    def _break_stall(self) -> None:
        flushable = self.feeder.flushable(self.tasks.values())
        for task in flushable:
            self.feeder.feed(task, flush=True)
            self.touch_writers(task.name)
        if flushable and not self._stalled():
            return
        waiting = [name for name, stage in self.topology.stages.items() if stage is Stage.WAITING]
        for name in waiting:  # the file's mistake: see the reason
            why = "what it comes after waits for room in a queue that only it, or what follows it, would empty"
            self.tasks[name].failed = why
            self.over(name, Stage.SKIPPED, why)
        if not waiting:
            self.ends.stalled(self._explain_stall())

    def _explain_stall(self) -> str:
        waits = [
            f"`{line.queue}` holds {line.count:,} items for {', '.join(f'`{reader}`' for reader in line.readers)}"
            for line in self.ledger.lines
            if line.count and not line.abandoned
        ]
        return "; ".join(waits) or "no queue holds anything"

    def _result(self, now: float) -> Result:
        self.ledger.count_left()
        faults = list(self.audit.faults(self.ledger, self.topology, cut_short=self.ends.stopping))
        for _, sentence in faults:
            self.emit(events.Notice(now, sentence))
        headline = self.ledger.headline()
        unfinished = tuple(name for name, task in self.tasks.items() if self._unfinished(task))
        cut = bool(unfinished or headline.left) or any(
            stage is Stage.SKIPPED for stage in self.topology.stages.values()
        )
        failed = any(self.topology.stages[name] in {Stage.FAILED, Stage.SKIPPED} for name in self.tasks)
        code = exit_code(
            fault=bool(faults) or headline.missing != 0 or self.ends.fault,
            signal=self.ends.signal,
            deadline=self.ends.deadline_passed or (self.ends.hurried and cut),
            halted=self.ends.halted,
            failed=failed,
            dead=headline.dead > 0,
        )
        return Result(
            title=self.plan.title,
            exit_code=code,
            seconds=self.clock.now() - self.began,
            headline=headline,
            tasks={name: self._task_result(name) for name in self.tasks},
            lines={line.name: line.tally for line in self.ledger.lines},
            unbalanced=tuple(dict.fromkeys(name for name, _ in faults)),
            reasons=(*self.ends.reasons, *(sentence for _, sentence in faults)),
            killed=self.ends.dying,
            unfinished=unfinished,
        )

    def _unfinished(self, task: TaskState) -> bool:
        """Whether a task without inputs was ended before it had ended by itself."""
        return task.is_source and not task.failed and not all(slot.done for slot in task.slots)

    def _task_result(self, name: str) -> TaskResult:
        task, tally, stage = self.tasks[name], self.ledger.tallies[name], self.topology.stages[name]
        return TaskResult(
            name=name,
            how=summary.how(stage),
            why=task.failed,
            done=tally.done,
            dead=tally.dead,
            dropped=tally.dropped,
            repeated=self.ledger.repeated[name],
            sent=self.ledger.sent[name],
            busy=task.busy,
            results=dict(task.results),
        )


__all__ = ["Phase", "Supervisor"]
