"""The loop: wait, hear, decide, feed."""

from __future__ import annotations

import os
import time
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from runner import events
from runner.engines.engine_events import (
    Announcement,
    GroupKept,
    HaltRequested,
    MessageReceived,
    PlacesChanged,
    SignalReceived,
    WorkerExited,
)
from runner.ledger.journal import LedgerImage
from runner.ledger.ledger import Ledger
from runner.ledger.restore import MAX_CRASHES
from runner.supervisor.arrival_meter import ArrivalMeter
from runner.supervisor.audit import BalanceAudit
from runner.supervisor.dead_letters import DeadLetterPayload, DeadLetterSink
from runner.supervisor.dispatch import Dispatcher
from runner.supervisor.fast_path import FastPath
from runner.supervisor.outcome import ProcessorMeter, ProgressReporter, conclude_run
from runner.supervisor.rate_limit import TokenBucket
from runner.supervisor.replies import ReplyHandler
from runner.supervisor.resume import restore_run, skip_drained_sources
from runner.supervisor.retry_policy import RetryPolicy
from runner.supervisor.run_state import DirtyTasks, RunState, TaskState
from runner.supervisor.shutdown import Shutdown, dismiss_task, skip_task
from runner.supervisor.suspect_previews import SuspectReaders
from runner.supervisor.timeouts import TimeoutWatchdog
from runner.supervisor.workers import WorkerPool
from runner.topology import Stage
from runner.transport.messages import PICKLED, Failed, Finished, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.engines.base import Clock, Engine, Reactor
    from runner.engines.engine_events import EngineEvent
    from runner.supervisor.autoscaler import Autoscaler
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan, RetriedItem, TaskPlan
    from runner.supervisor.resume import GroupKeeper
    from runner.transport.lease_page import LeasePage


class Supervisor:
    """One run. `run` returns its result; `emit` is told of everything that a person may want to know.

    `engines` maps a mode to the engine whose workers have it. `suspect_readers`: workers can show items.
    With a `keeper` the run is durable, and goes on from the `image` of its ledger; its leases are on a `lease_page`.
    """

    def __init__(
        self,
        plan: Plan,
        engines: Mapping[str, Engine],
        reactor: Reactor,
        clock: Clock,
        emit: Callable[[events.Event], None],
        letters: DeadLetterSink | None = None,
        *,
        listening: bool = False,
        suspect_readers: bool = False,
        keeper: GroupKeeper | None = None,
        image: LedgerImage | None = None,
        lease_page: LeasePage | None = None,
    ) -> None:
        self.plan = plan
        self.reactor = reactor
        self.clock = clock
        self.topology = plan.build_topology()
        ordered = [name for name, task in plan.tasks.items() if task.config.ordered]
        self.ledger = Ledger(plan.subscriptions(self.topology.readers), ordered)
        self.tasks = {name: _task_state(plan, task, engines[task.mode]) for name, task in plan.tasks.items()}
        self.dirty_tasks = DirtyTasks(self.topology)
        self.state = state = RunState(
            plan=plan,
            clock=clock,
            emit=emit,
            topology=self.topology,
            ledger=self.ledger,
            tasks=self.tasks,
            dead_letters=letters or DeadLetterSink(),
            audit=BalanceAudit(),
            dirty_tasks=self.dirty_tasks,
            began_at=clock.now(),
            lease_page=lease_page,
        )
        #: Of a durable run.
        self.keeper = keeper
        if keeper is not None:
            restore_run(state, LedgerImage() if image is None else image)
        #: A worker that was at work when that was last asked: an index of `state.slots`.
        self._witness = 0
        #: A class is not torn down yet, because the ends of its items are not on disk.
        self._holds_tear_down = False
        self._batching = [task for task in self.tasks.values() if task.plan.config.batch is not None]
        # Each part is given those that it calls, and none calls upwards, but for `on_kill` and `handlers`.
        self.timeout_watchdog = watchdog = TimeoutWatchdog(state)
        self.dispatcher = dispatcher = Dispatcher(state, watchdog)
        self.shutdown = shutdown = Shutdown(state, reactor, watchdog)
        self.retry_policy = retry_policy = RetryPolicy(state, shutdown)
        self.reply_handler = replies = ReplyHandler(state, dispatcher, watchdog, shutdown, retry_policy)
        self.worker_pool = pool = WorkerPool(state, dispatcher, watchdog, shutdown, retry_policy, replies)
        replies.handlers |= {Ready: pool.on_ready, Finished: pool.on_finished, Failed: pool.on_failed}
        self.suspect_readers = SuspectReaders(state, dispatcher, pool, able=suspect_readers)
        self.fast_path = FastPath(state, dispatcher, replies, self.suspect_readers.readers)
        pool.on_earlier_death = self._handle_event
        shutdown.on_kill = self.suspect_readers.end_readers
        self.arrival_meter = ArrivalMeter(self.ledger, listening=listening)
        self.progress_reporter = ProgressReporter(state, self.arrival_meter, listening=listening)
        #: Of each part that will make something happen by itself: when the first of it is. Then those that only watch.
        #: Parts that no task of this run needs are not asked.
        timers: list[Callable[[], float | None]] = [self.ledger.next_waking, pool.next_time]
        timers += [dispatcher.next_time] if any(task.rate_limiter for task in self.tasks.values()) else []
        timers += [self._batch_due] if self._batching else []
        self._timers = tuple(timers)
        #: None: the number of workers of each task is fixed.
        self.autoscaler: Autoscaler | None = None
        if any(task.config.is_adaptive for task in plan.tasks.values()):
            from runner.supervisor.autoscaler import Autoscaler  # few files have ranges

            self.autoscaler = Autoscaler(state, dispatcher, pool)
            timers.append(self.autoscaler.next_time)
        timers += [watchdog.next_time] if watchdog.timed_tasks else []
        watching = (shutdown, self.suspect_readers, self.progress_reporter)
        self._all_timers = (*timers, *(part.next_time for part in watching))
        self._due = 0.0
        #: The queues of which it was said that they drop items.
        self._told_drops: set[str] = set()

    def run(self) -> RunOutcome:
        """Run until every task is over."""
        self.state.began_at = self.clock.now()
        processors = ProcessorMeter()
        self._tell_start()
        self.shutdown.start_deadline()
        skip_drained_sources(self.state)
        for item in self.plan.retried_items:
            self._put_retried(item)
        while True:
            self.step()
            if self.topology.all_finished():
                break
            if self.keeper is not None:
                self._hand_over(self.keeper)
            for event in self.reactor.wait(self.seconds_until_next_timer()):
                if not self.fast_path.forward_item(event):  # it forwards only while nothing else is to be looked at
                    self._handle_event(event)
                del event  # it holds a thread's items, or a block of shared memory
            if self.keeper is not None:  # before feeding: the disk is the slowest
                self._hand_over(self.keeper)
            self._feed_dirty()  # before anything else is looked at: a worker may wait for just that
        if self.keeper is not None:
            self._await_disk(self.keeper)
        if self.progress_reporter.next_time() is not None:
            self.progress_reporter.report_progress(self.clock.now())
        longest, fullest = self.progress_reporter.longest_queues, self.arrival_meter.fullest
        return conclude_run(self.state, self.shutdown, processors, longest, fullest)

    def _tell_drops(self) -> None:
        """Say of each queue once that it drops items; how many, the balance says."""
        for queue in self.ledger.dropped_by_queue.keys() - self._told_drops:
            self._told_drops.add(queue)
            self.progress_reporter.longest_queues[queue] = self.ledger.size_bound(queue)
            what = "what comes in" if self.plan.queues[queue].full == "drop-new" else "what has waited longest"
            text = f"queue `{queue}` is full, and {what} is dropped and counted, as its `full` says"
            self.state.emit(events.Notice(self.clock.now(), text))

    def _tell_start(self) -> None:
        """Tell that the run begins; of one that goes on, also what was done before."""
        plan, now = self.plan, self.state.began_at
        head = (plan.run_id, plan.title, tuple(self.tasks), plan.description)
        self.state.emit(events.RunStarted(now, *head, time.time(), os.getpid(), plan.lives))
        if len(plan.lives) > 1 and self.progress_reporter.next_time() is not None:
            self.progress_reporter.report_progress(now)

    def _put_retried(self, item: RetriedItem) -> None:
        """Put an item of an earlier run where it came from; no task runs yet, so nothing is before it."""
        payload = DeadLetterPayload(item.payload, 0, PICKLED, 0, item.text)
        chunk = self.ledger.make_chunk(payload, 1, len(item.payload), bucket=item.bucket)
        self.state.audit.retried_by_line[self.ledger.put_retried(item.queue, item.reader, chunk)] += 1

    def _hand_over(self, keeper: GroupKeeper) -> None:
        """Hand what has changed to the keeper: between two steps, so that what one step does is in one group."""
        assert self.ledger.journal is not None
        if (group := self.ledger.journal.hand_over()) is not None:
            keeper.keep(group)

    def _await_disk(self, keeper: GroupKeeper) -> None:
        """Wait until all is on disk; a second signal ends that when the disk refuses."""
        journal = self.ledger.journal
        assert journal is not None
        self._hand_over(keeper)
        while not journal.is_idle and not keeper.is_broken and not (self.state.killing and keeper.trouble):
            for event in self.reactor.wait(None):
                self._handle_event(event)
            self._hand_over(keeper)

    def step(self) -> None:
        """Do everything that follows from what has happened, until nothing more follows."""
        now = self.clock.now()
        self.state.last_step_at = now
        if now >= self._due or self.state.halted:
            self.check_timers(now)
        if now >= self.arrival_meter.due:
            self.arrival_meter.look(now)
        if len(self.ledger.dropped_by_queue) > len(self._told_drops):
            self._tell_drops()
        self.settle(now)
        while not self.ledger.leases and self._is_stalled() and not self.state.killing:
            self._break_stall()
            self.settle(now)

    def check_timers(self, now: float) -> None:
        """Do what follows from the time alone."""
        self.shutdown.check_limits(now)
        if (when := self.ledger.next_waking()) is not None and when <= now:  # the back-off of an item is over
            self.ledger.wake_sleepers(now)
            self.dirty_tasks.add_tasks(name for name, task in self.tasks.items() if not task.is_source)
        self.dirty_tasks.add_tasks(self.dispatcher.wake_rate_limited(now))
        self.timeout_watchdog.check_timeouts(now)
        self.suspect_readers.check_readers(now)
        if self.autoscaler is not None:
            self.autoscaler.decide_when_due(now)
        self.progress_reporter.report_when_due(now)

    def settle(self, now: float) -> None:
        """Start, feed and close; the end of one task may be what another waits for."""
        while True:
            self.worker_pool.start_due(now)
            if self._batching:
                self.mark_due_batches(now)
            if self.dirty_tasks.heap:
                self._feed_dirty()
            if not self.state.check_ends:
                return
            self.state.check_ends = False
            self._close_exhausted()

    def _handle_event(self, event: EngineEvent) -> None:
        if isinstance(event, (MessageReceived, WorkerExited)):
            if event.slot in self.suspect_readers.readers:
                self.suspect_readers.handle_message(event)
            elif isinstance(event, MessageReceived):
                self.reply_handler.handle_message(event)
            elif not self.suspect_readers.ask_reader(event):
                self.worker_pool.on_death(event)
        elif isinstance(event, SignalReceived):
            self.shutdown.handle_signal(event.signal_number)
        elif isinstance(event, HaltRequested):
            self.shutdown.halt_run(event.why)
        elif isinstance(event, GroupKept):
            self._on_kept(event)
        elif isinstance(event, Announcement):
            self.state.emit(event.event)
        elif isinstance(event, PlacesChanged):
            self.worker_pool.add_auto_workers()
        else:
            self.worker_pool.on_leaving(event)

    def _on_kept(self, event: GroupKept) -> None:
        """Let what has come to disk be granted; or say what is wrong with the disk."""
        assert self.keeper is not None
        if not event.group_number:
            if self.keeper.fault is not None:
                self.shutdown.internal_fault = True
            self.shutdown.report_disk_trouble(self.keeper.trouble, is_broken=self.keeper.is_broken)
            return
        for queue in self.ledger.wake_kept(event.group_number):
            self.dirty_tasks.add_readers(queue)
        if self._holds_tear_down:
            self.state.check_ends, self._holds_tear_down = True, False

    def seconds_until_next_timer(self) -> float | None:
        """Return how long there is nothing to do unless a worker speaks."""
        due = inf
        for ask in self._all_timers:
            when = ask()
            if when is not None and when < due:
                due = when
        self._due = due
        return None if due == inf else max(0.0, due - self.clock.now())

    def _batch_due(self) -> float | None:
        """Return when the first batch that is not full will have waited long enough.

        One that has, and was not granted in this turn, waits for a worker, or for room: a worker will speak.
        """
        due = [self._flush_time(task) for task in self._batching]
        return min((when for when in due if self.state.last_step_at < when < inf), default=None)

    @staticmethod
    def _flush_time(task: TaskState) -> float:
        """Return when a batch that is not full will have waited as long as the file allows."""
        batch = task.plan.config.batch
        if batch is None or batch.wait is None or task.batch_since is None:
            return inf
        return task.batch_since + batch.wait

    def _feed_dirty(self) -> None:
        """Feed what is dirty, the farthest from the sources first: finish what is in flight before more comes in."""
        dirty = self.dirty_tasks
        if self.ledger.isolates and not self._may_feed_isolated():
            return
        while dirty.heap:
            name = dirty.pop_farthest()
            task = self.tasks[name]
            if self.topology.stages[name] is not Stage.RUNNING or (self.state.halted and not task.plan.is_fed_in_halt):
                continue
            before = self.ledger.leased_items[name]
            self.dispatcher.feed_task(task, flush=task.plan.config.batch is not None and self._may_flush(task))
            if self.ledger.leased_items[name] != before:
                self.dirty_tasks.add_input_writers(name)
                if self.ledger.isolates:
                    return  # the others are looked at when this lease is over

    def _may_feed_isolated(self) -> bool:
        """Return True if a lease may be granted, the only one: or any number, once nothing waits that asks for that."""
        if self.ledger.leases:
            return False
        self.ledger.isolates = self.ledger.has_crashed(MAX_CRASHES - 1)
        self.dirty_tasks.add_tasks(self.tasks)
        return True

    def _waits_for_batch(self, task: TaskState) -> bool:
        batch = task.plan.config.batch
        return batch is not None and 0 < self.ledger.available_items(task.name) < batch.items

    def mark_due_batches(self, now: float) -> None:
        """Grant a batch that is not full once it has waited long enough, or nothing can fill it any more."""
        for task in self._batching:
            if not self._waits_for_batch(task):
                task.batch_since = None
                continue
            if task.batch_since is None:
                task.batch_since = now
            if self._may_flush(task):
                self.dirty_tasks.add_tasks((task.name,))

    def _may_flush(self, task: TaskState) -> bool:
        if self.keeper is not None and self.ledger.waits_for_disk(task.name):
            return self.clock.now() >= self._flush_time(task)
        # A queue that is full before the batch is: its writers wait, so nothing more would come.
        full = any(self.ledger.free_room_in(queue) == 0 for queue in self.topology.nodes[task.name].inputs)
        return full or self.clock.now() >= self._flush_time(task) or self._nothing_can_come(task.name)

    def _nothing_can_come(self, name: str) -> bool:
        component = self.topology.cycle_of(name)
        if not all(self.topology.is_closed(queue, component) for queue in self.topology.nodes[name].inputs):
            return False
        others = [other for other in component if other != name]
        return not any(
            self.ledger.has_items(other) or (self.tasks[other].is_source and not self.topology.is_finished(other))
            for other in others
        )

    def _close_exhausted(self) -> None:
        """Dismiss the tasks whose inputs have ended.

        Where workers have no tear-down, what follows them has ended as well, and is told first: a hundred threads
        that end one after the other would keep the last task waiting for its own end.
        """
        ended: dict[str, None] = {}
        while fresh := [
            name
            for name in self.topology.exhausted_tasks(self.ledger.has_items)
            if not self.tasks[name].dismissed and name not in ended and self._may_tear_down(self.tasks[name])
        ]:
            ended.update(dict.fromkeys(fresh))
            for name in fresh:
                if self.tasks[name].plan.only_calls and not self.plan.worker_hooks:
                    self.topology.writers_done(name)
        for name in reversed(ended):
            dismiss_task(self.state, self.tasks[name])
        limited = (name for name, task in self.tasks.items() if self.dispatcher.has_reached_limit(task))
        for name in (*self.topology.without_readers(), *limited):
            dismiss_task(self.state, self.tasks[name])

    def _may_tear_down(self, task: TaskState) -> bool:
        """Return False while a class has items whose ends are not on disk.

        Its tear-down may put in its place what it has written: in the next life, that would be more than was saved.
        """
        journal = self.ledger.journal
        if journal is None or task.plan.shape.kind != "class" or not journal.has_unkept_ends(task.name):
            return True
        self._holds_tear_down = True
        return False

    def _is_stalled(self) -> bool:
        """Return True if no worker works, nothing is due, and yet it is not over: nothing will ever happen again."""
        if self.ledger.leases or self.dirty_tasks or self.state.check_ends or self.topology.all_finished():
            return False
        if (journal := self.ledger.journal) is not None and not journal.is_idle:
            return False
        return not self._is_any_working() and all(ask() is None for ask in self._timers)

    def _is_any_working(self) -> bool:
        """Return True if a worker works; bench scale, 256 workers: without asking the last one first 62 us, with 58."""
        slots = self.state.slots
        for at in chain(range(self._witness, len(slots)), range(self._witness)):
            if slots[at].is_working:
                self._witness = at
                return True
        return False

    def _break_stall(self) -> None:
        for task in self._batching:  # one that waits for its turn has no worker to give a batch to
            if self.topology.stages[task.name] is Stage.RUNNING and self._waits_for_batch(task):
                self.dispatcher.feed_task(task, flush=True)
                self.dirty_tasks.add_input_writers(task.name)
        if self.ledger.leases:
            return
        waiting = [name for name, stage in self.topology.stages.items() if stage is Stage.WAITING]
        for name in waiting:  # the file's mistake: see the reason
            why = "the task it starts after waits for room in a queue that only this task, or one behind it, empties"
            skip_task(self.state, self.tasks[name], why)
        if not waiting:
            holds = [
                f"`{line.queue}` holds {line.count:,} items for {', '.join(f'`{reader}`' for reader in line.readers)}"
                + self.arrival_meter.describe_line(line, self.clock.now())
                for line in self.ledger.subscriptions
                if line.count and not line.abandoned
            ]
            self.shutdown.report_stall("; ".join(holds) or "no queue holds anything")


def _task_state(plan: Plan, task: TaskPlan, engine: Engine) -> TaskState:
    """Return the state of a task that has not begun."""
    config = task.config
    return TaskState(
        task,
        engine,
        plan.output_groups(config),
        bounding_queues=tuple(
            queue for queue in config.outputs_and_dead if not (plan.queues[queue].loop or plan.queues[queue].drops)
        ),
        takes_singly=task.takes_singly or any(plan.queues[queue].is_ranked for queue in config.inputs),
        reads_lanes=plan.keeps_lanes(config),
        shares_lanes=any(plan.queues[queue].lane and plan.queues[queue].fanout == "share" for queue in config.inputs),
        rate_limiter=None if config.rate is None else TokenBucket(config.rate.count, config.rate.period),
        shared_discount=plan.shared_discount(config),
    )
