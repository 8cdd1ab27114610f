"""The loop: wait, hear, decide, feed."""

from __future__ import annotations

import os
import time
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from runner import events
from runner.engines.base import MessageReceived, SignalReceived, WorkerExited
from runner.ledger import Ledger
from runner.supervisor import summary
from runner.supervisor.audit import BalanceAudit
from runner.supervisor.crashes import CrashHandler
from runner.supervisor.dead_letters import DeadLetterSink
from runner.supervisor.dirty_tasks import DirtyTasks
from runner.supervisor.dispatch import Dispatcher
from runner.supervisor.processors import ProcessorMeter
from runner.supervisor.progress import ProgressReporter
from runner.supervisor.rate_limit import TokenBucket
from runner.supervisor.replies import ReplyHandler
from runner.supervisor.result import RunOutcome, TaskOutcome, exit_code
from runner.supervisor.retry_policy import RetryPolicy
from runner.supervisor.run_state import Phase, TaskState
from runner.supervisor.shutdown import Shutdown
from runner.supervisor.suspect_previews import SuspectReaders
from runner.supervisor.timeouts import TimeoutWatchdog
from runner.supervisor.workers import WorkerPool
from runner.topology import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.clock import Clock
    from runner.engines.base import Engine, EngineEvent, Reactor
    from runner.supervisor.plan import Plan


class Supervisor:
    """One run. `run` returns its result; `emit` is told of everything that a person may want to know.

    `fleets` maps a mode to the fleet whose workers have it. `looks`: they can show items.
    """

    def __init__(
        self,
        plan: Plan,
        fleets: Mapping[str, Engine],
        hub: Reactor,
        clock: Clock,
        emit: Callable[[events.Event], None],
        letters: DeadLetterSink | None = None,
        *,
        listening: bool = False,
        looks: bool = False,
    ) -> None:
        self.plan = plan
        self.hub = hub
        self.clock = clock
        self.emit = emit
        self.topology = plan.build_topology()
        self.ledger = Ledger(plan.queue_specs(), [name for name, task in plan.tasks.items() if task.config.ordered])
        self.dispatcher = Dispatcher(self.ledger, plan.payload_kinds, clock)
        self.tasks = {name: self._state(name, fleets) for name in plan.tasks}
        self.dispatcher.queue_readers = {
            queue: [self.tasks[name] for name in names] for queue, names in self.topology.readers.items()
        }
        self.dead_letters = letters or DeadLetterSink()
        self.audit = BalanceAudit()
        self.dirty_tasks = DirtyTasks(self.topology.task_depths())
        self.check_ends = True
        #: Somebody who was at work when that was last asked: an index of `staff.slots`.
        self._witness = 0
        self._batching = [task for task in self.tasks.values() if task.plan.config.batch is not None]
        self.worker_pool = WorkerPool(self)
        self.crash_handler = CrashHandler(self)
        self.shutdown = Shutdown(self)
        self.retry_policy = RetryPolicy(self)
        self.timeout_watchdog = TimeoutWatchdog(self)
        self.suspect_readers = SuspectReaders(self, able=looks)
        self.reply_handler = ReplyHandler(self)
        self.progress_reporter = ProgressReporter(self, listening=listening)
        self.dispatcher.timeout_watchdog = self.timeout_watchdog
        #: Who knows of something that is to be done at some time, and when the first of it is.
        parts = (
            self.ledger.next_waking,
            self.shutdown.next_time,
            self.worker_pool.next_time,
            self.timeout_watchdog.next_time,
        )
        self._timers = (
            *parts,
            self.suspect_readers.next_time,
            self.dispatcher.next_time,
            self._batch_due,
            self.progress_reporter.next_time,
        )
        self._due = 0.0
        self.began_at = clock.now()

    def _state(self, name: str, fleets: Mapping[str, Engine]) -> TaskState:
        task = self.plan.tasks[name]
        outputs = (*task.config.outputs, *((task.config.dead,) if task.config.dead else ()))
        bounding = tuple(queue for queue in outputs if not self.plan.queues[queue].loop)
        rate = task.config.rate
        throttle = None if rate is None else TokenBucket(rate.count, rate.period)
        groups, light = self.plan.output_groups(task.config), self.plan.shared_discount(task.config)
        return TaskState(task, fleets[task.mode], groups, bounding, rate_limiter=throttle, shared_discount=light)

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> RunOutcome:
        """Run until every task is over."""
        self.began_at = self.clock.now()
        self._processors = ProcessorMeter()
        head = (self.plan.run_id, self.plan.title, tuple(self.tasks))
        self.emit(events.RunStarted(self.began_at, *head, self.plan.description, time.time(), os.getpid()))
        self.shutdown.start_deadline()
        while True:
            self.step()
            if self.topology.all_finished():
                break
            for event in self.hub.wait(self.seconds_until_next_timer()):
                self._handle(event)
            self._feed_dirty()  # before anything else is looked at: somebody may wait for just that
        return self._end()

    def _end(self) -> RunOutcome:
        now = self.clock.now()
        if self.progress_reporter.next_time() is not None:
            self.progress_reporter.report_progress(now)
        tasks = tuple(summary.summarize_tasks(self.began_at, self.tasks, self.ledger, self.topology, now))
        result = self._result(now)
        told = result.headline
        counts = (told.read, told.made, told.done, told.dead, told.dropped, told.left, told.repeated)
        queues = tuple(summary.summarize_queues(self.ledger, self.progress_reporter.longest_queues))
        more = (
            tasks,
            queues,
            result.reasons,
            result.unbalanced,
            self._processors.idle_share(),
            self._processors.cpu_seconds(),
        )
        end = (self.plan.run_id, result.exit_code, result.seconds, *counts, *more, result.unfinished)
        self.emit(events.RunEnded(now, *end))
        return result

    def step(self) -> None:
        """Everything that follows from what has happened, until nothing more follows."""
        now = self.clock.now()
        self.shutdown.last_step_at = now
        if now >= self._due or self.shutdown.halted:
            self.check_timers(now)
        self.settle(now)
        while self._stalled() and not self.shutdown.killing:
            self._break_stall()
            self.settle(now)

    def check_timers(self, now: float) -> None:
        """What follows from the time alone."""
        self.shutdown.check_limits(now)
        self.wake_ledger(now)
        self.mark_dirty(*self.dispatcher.wake_rate_limited(now))
        self.timeout_watchdog.check_timeouts(now)
        self.suspect_readers.check_readers(now)
        self.progress_reporter.report_when_due(now)

    def settle(self, now: float) -> None:
        """Start, feed and close; the end of one task may be what another waits for."""
        while True:
            self.worker_pool.start_due(now)
            if self._batching:
                self.mark_due_batches(now)
            self._feed_dirty()
            if not self.check_ends:
                return
            self.check_ends = False
            self._close_exhausted()

    def _handle(self, event: EngineEvent) -> None:
        if isinstance(event, SignalReceived):
            self.shutdown.handle_signal(event.signal_number)
        elif event.slot in self.suspect_readers.readers:
            self.suspect_readers.handle_message(event)
        elif isinstance(event, MessageReceived):
            self.reply_handler.handle_message(event)
        elif isinstance(event, WorkerExited):
            self.worker_pool.on_death(event)

    def seconds_until_next_timer(self) -> float | None:
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
                if when > self.shutdown.last_step_at:
                    due.append(when)
        return min(due, default=None)

    # -- feeding -------------------------------------------------------------------------------

    def mark_dirty(self, *names: str) -> None:
        """Something has changed for these tasks: look whether they can be fed."""
        self.dirty_tasks.add_tasks(names)

    def mark_readers_of(self, queue: str) -> None:
        """Something came into a queue: its readers may go on."""
        self.dirty_tasks.add_tasks(self.topology.readers[queue])

    def mark_input_writers(self, task: str) -> None:
        """Something left the task's inputs: whoever writes them may go on."""
        for queue in self.topology.nodes[task].inputs:
            self.dirty_tasks.add_tasks(self.topology.writers[queue])

    def mark_input_readers(self, task: str) -> None:
        """Something went back into the task's inputs: whoever shares them may go on."""
        for queue in self.topology.nodes[task].inputs:
            self.mark_readers_of(queue)

    def _feed_dirty(self) -> None:
        """Feed what is dirty, the farthest from the sources first: finish what is in flight before more comes in."""
        while (name := self.dirty_tasks.pop_farthest()) is not None:
            if self.topology.stages[name] is not Stage.RUNNING or self.shutdown.halted:
                continue
            task = self.tasks[name]
            before = self.ledger.leased_items[name]
            self.dispatcher.feed_task(task, flush=self._may_flush(task))
            if self.ledger.leased_items[name] != before:
                self.mark_input_writers(name)
            elif self.dispatcher.credit_withheld and task.free_slots[0]:
                self._touch_credit_withheld(name)

    def _touch_credit_withheld(self, name: str) -> None:
        """Somebody has nothing to do: sources that hold items back for this task must know."""
        for queue in self.topology.nodes[name].inputs:
            self.dirty_tasks.add_tasks(self.dispatcher.credit_withheld.intersection(self.topology.writers[queue]))

    def wake_ledger(self, now: float) -> None:
        """Items whose back-off is over may be granted again."""
        when = self.ledger.next_waking()
        if when is not None and when <= now:
            self.ledger.wake_sleepers(now)
            self.mark_dirty(*(name for name, task in self.tasks.items() if not task.is_source))

    def mark_due_batches(self, now: float) -> None:
        """Grant a batch that is not full once it has waited long enough, or nothing can fill it any more."""
        for task in self._batching:
            name, batch = task.name, task.plan.config.batch
            waiting = batch is not None and 0 < self.ledger.available_items(name) < batch.items
            if not waiting:
                task.batch_since = None
            elif task.batch_since is None:
                task.batch_since = now
                if self._may_flush(task):
                    self.mark_dirty(name)
            elif self._may_flush(task):
                self.mark_dirty(name)

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
        full = self.ledger.free_room(self.topology.nodes[task.name].inputs) == 0
        return overdue or full or self._nothing_can_come(task.name)

    def _nothing_can_come(self, name: str) -> bool:
        component = self.topology.cycle_of(name)
        return all(self.topology.is_closed(queue, component) for queue in self.topology.nodes[name].inputs) and not any(
            self.ledger.has_items(other) or self._running_source(other) for other in component if other != name
        )

    def _running_source(self, name: str) -> bool:
        return self.tasks[name].is_source and not self.topology.is_finished(name)

    # -- ends ----------------------------------------------------------------------------------

    def _close_exhausted(self) -> None:
        """Dismiss the tasks whose inputs have ended.

        Where workers have no tear-down, what follows them has ended as well, and is told first: a hundred threads
        that end one after the other would keep the last task waiting for its own end.
        """
        ended: list[str] = []
        while fresh := [
            name for name in self.topology.exhausted_tasks(self.ledger.has_items) if self._is_new(name, ended)
        ]:
            ended += fresh
            for name in fresh:
                if self.tasks[name].plan.only_calls and not self.plan.worker_hooks:
                    self.topology.writers_done(name)
        for name in reversed(ended):
            self.worker_pool.dismiss_task(self.tasks[name])
        for name in self.topology.without_readers():
            self.worker_pool.dismiss_task(self.tasks[name])

    def _is_new(self, name: str, ended: list[str]) -> bool:
        return not self.tasks[name].dismissed and name not in ended

    def finish_task(self, name: str, stage: Stage, why: str = "") -> None:
        """A task is over."""
        self.topology.finish(name, stage)
        self.tasks[name].ended_at = self.clock.now()
        self.worker_pool.look_for_tasks = True
        how = {Stage.OK: "ok", Stage.FAILED: "failed", Stage.SKIPPED: "skipped"}[stage]
        self.emit(events.TaskEnded(self.clock.now(), name, how, why))
        self.ledger.remove_reader(name, self.topology.ended_tasks)
        self.mark_input_writers(name)
        self.mark_dirty(
            *(reader for queue in self.topology.nodes[name].outputs for reader in self.topology.readers[queue])
        )
        self.check_ends = True

    def _stalled(self) -> bool:
        """Nobody is working, nothing is due, and yet it is not over: nothing will ever happen again."""
        if self.ledger.leases or self.dirty_tasks or self.check_ends or self.topology.all_finished():
            return False
        if self._anybody_works():
            return False
        timers = (
            self.ledger.next_waking(),
            self.worker_pool.next_time(),
            self.dispatcher.next_time(),
            self._batch_due(),
        )
        return all(when is None for when in timers)

    def _anybody_works(self) -> bool:
        """Who was at work last time is asked first, then who comes after."""
        slots = self.worker_pool.slots
        for at in chain(range(self._witness, len(slots)), range(self._witness)):
            if slots[at].is_working:
                self._witness = at
                return True
        return False

    def _break_stall(self) -> None:
        flushable = self.dispatcher.flushable_tasks(self.tasks.values())
        for task in flushable:
            self.dispatcher.feed_task(task, flush=True)
            self.mark_input_writers(task.name)
        if flushable and not self._stalled():
            return
        waiting = [name for name, stage in self.topology.stages.items() if stage is Stage.WAITING]
        for name in waiting:  # the file's mistake: see the reason
            why = "what it comes after waits for room in a queue that only it, or what follows it, would empty"
            self.tasks[name].failure_reason = why
            self.finish_task(name, Stage.SKIPPED, why)
        if not waiting:
            self.shutdown.report_stall(self._explain_stall())

    def _explain_stall(self) -> str:
        waits = [
            f"`{line.queue}` holds {line.count:,} items for {', '.join(f'`{reader}`' for reader in line.readers)}"
            for line in self.ledger.subscriptions
            if line.count and not line.abandoned
        ]
        return "; ".join(waits) or "no queue holds anything"

    def _result(self, now: float) -> RunOutcome:
        self.ledger.count_left()
        faults = list(self.audit.find_faults(self.ledger, self.topology, cut_short=self.shutdown.stopping))
        for _, sentence in faults:
            self.emit(events.Notice(now, sentence))
        headline = self.ledger.compute_run_balance()
        unfinished = tuple(name for name, task in self.tasks.items() if self._unfinished(task))
        cut = bool(unfinished or headline.left) or any(
            stage is Stage.SKIPPED for stage in self.topology.stages.values()
        )
        failed = any(self.topology.stages[name] in {Stage.FAILED, Stage.SKIPPED} for name in self.tasks)
        code = exit_code(
            fault=bool(faults) or headline.missing != 0 or self.shutdown.internal_fault,
            signal=self.shutdown.received_signal,
            deadline=self.shutdown.deadline_passed or (self.shutdown.draining_for_deadline and cut),
            halted=self.shutdown.halted,
            failed=failed,
            dead=headline.dead > 0,
        )
        return RunOutcome(
            title=self.plan.title,
            exit_code=code,
            seconds=self.clock.now() - self.began_at,
            headline=headline,
            tasks={name: self._task_result(name) for name in self.tasks},
            lines={line.name: line.counts for line in self.ledger.subscriptions},
            unbalanced=tuple(dict.fromkeys(name for name, _ in faults)),
            reasons=(*self.shutdown.reasons, *(sentence for _, sentence in faults)),
            was_killed=self.shutdown.killing,
            unfinished=unfinished,
        )

    def _unfinished(self, task: TaskState) -> bool:
        """Whether a task without inputs was ended before it had ended by itself."""
        return task.is_source and not task.failure_reason and not all(slot.ended_by_itself for slot in task.slots)

    def _task_result(self, name: str) -> TaskOutcome:
        task, tally, stage = self.tasks[name], self.ledger.task_counts[name], self.topology.stages[name]
        return TaskOutcome(
            name=name,
            how=summary.ending_word(stage),
            why=task.failure_reason,
            done=tally.done,
            dead=tally.dead,
            dropped=tally.dropped,
            repeated=self.ledger.repeated_items[name],
            sent=self.ledger.sent_items[name],
            busy_seconds=task.busy_seconds,
            results=dict(task.results),
        )


__all__ = ["Phase", "Supervisor"]
