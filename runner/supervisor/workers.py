"""Workers: started, ready, finished, failed, replaced; and dead: which item to blame, and what is given again.

pidfd readable ─▶ fenced (engine) ─▶ handled ─▶ blame the item it had under way ─▶ ledger ─▶ replace it
                                        │
                                        └▶ no item under way: counts against `restarts`, with a pause
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner import events
from runner.engines.engine_events import ExitStatus, WorkerExited
from runner.error_text import ErrorText, class_names
from runner.errors import SpawnError, TimedOut
from runner.ledger.restore import MAX_CRASHES
from runner.supervisor.audit import count_finished
from runner.supervisor.run_state import Phase, WorkerSlot
from runner.supervisor.shutdown import dismiss_worker, fail_task, finish_if_over, must_still_run, skip_task
from runner.supervisor.slot_history import count_first_workers, history_on_disk
from runner.supervisor.time_accounting import ENDED, EXECUTING, ITEM, ROOM, STARTING, WAITING_FOR_REASON, TimeAccount
from runner.text import format_seconds
from runner.topology import Stage
from runner.transport.messages import Failure, Stop
from runner.transport.progress_page import MAX_PROGRESS_SLOTS, Position
from runner.worker.failure import may_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.engines.engine_events import WorkerLeaving
    from runner.ledger.leases import Lease, Verdict
    from runner.ledger.subscriptions import ItemRange
    from runner.supervisor.dispatch import Dispatcher
    from runner.supervisor.replies import ReplyHandler
    from runner.supervisor.retry_policy import RetryPolicy
    from runner.supervisor.run_state import RunState, TaskState
    from runner.supervisor.shutdown import Shutdown
    from runner.supervisor.timeouts import TimeoutWatchdog
    from runner.transport.messages import Failed, Finished, Ready

#: Deaths before the first worker of a task was ready: its set-up is broken.
MAX_FAILED_STARTS = 3
#: An item that had been under way for so long when its machine was lost may have been the reason: agents tell of such
#: items, and of workers that execute many at a time the time of the grant counts.
LOST_ITEM_SECONDS = 1.0
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 5.0
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
    reply_handler: ReplyHandler
    #: Told of the death of a worker that executed in an earlier life of the run.
    on_earlier_death: Callable[[WorkerExited], None] | None = None
    #: Told of a worker above the least number of its task that could not be started, and why.
    on_extra_lost: Callable[[TaskState, str], None] | None = None
    _due: list[WorkerSlot] = field(default_factory=list)
    #: In the order of time, as all have the same grace.
    _exit_deadlines: dict[int, float] = field(default_factory=dict)

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
            while self._exit_deadlines and next(iter(self._exit_deadlines.values())) <= now:
                index = next(iter(self._exit_deadlines))
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
        return min([*starts, *islice(self._exit_deadlines.values(), 1)], default=None)

    def _start_task(self, task: TaskState, now: float) -> None:
        names = task.plan.config.workers[: count_first_workers(task.plan.config, self.state.ledger.journal)]
        if task.follows_places:
            names = self._auto_names(task, 0) or (f"{task.name}-1",)
        self.state.topology.mark_started(task.name)
        task.began_at = now
        self.state.emit(events.TaskStarted(now, task.name, names))
        self._add_slots(task, names, now)
        self.state.check_ends = True
        if self.state.ledger.journal is not None:
            self._end_earlier_worker(task)

    def _auto_names(self, task: TaskState, has: int) -> tuple[str, ...]:
        """Return the names of the workers that a task gets for places that it does not use yet; it `has` so many."""
        free = MAX_PROGRESS_SLOTS // 2 - len(self.state.slots)
        most = min(task.engine.auto_worker_count(task.name), has + free)  # type: ignore[attr-defined]  # it has places
        return tuple(f"{task.name}-{number}" for number in range(has + 1, most + 1))

    def add_auto_workers(self) -> None:
        """Give tasks with `workers = "auto"` one worker for each place that has come."""
        for task in self.state.tasks.values():
            is_running = self.state.topology.stages[task.name] is Stage.RUNNING and not self.state.stopping
            if not task.follows_places or not is_running or task.dismissed or task.failure_reason:
                continue
            if names := self._auto_names(task, len(task.slots)):
                self._add_slots(task, names, self.state.clock.now())

    def _add_slots(self, task: TaskState, names: Sequence[str], now: float) -> None:
        """Give a task workers, which are started with those that are due."""
        for name in names:
            self._due.append(self.add_slot(task, name, now))
        task.set_worker_count(len(task.slots))

    def add_slot(self, task: TaskState, name: str, now: float) -> WorkerSlot:
        """Make a place for a further worker of a task that has begun."""
        began_at = now if task.began_at is None else task.began_at
        account = TimeAccount(task.wait_reason, self.state.began_at, began_at, ROOM if task.is_source else ITEM)
        if now > began_at:  # until now there was no such worker
            account.enter_state(ENDED, began_at)
            account.enter_state(STARTING, now)
        slot = WorkerSlot(len(self.state.slots), name, task, start_at=now, time_account=account)
        if (journal := self.state.ledger.journal) is not None:
            place, saved = journal.source_place(task.name, name), journal.saved_place(task.name, name)
            slot.history = history_on_disk(place, saved, journal.key_files.get((task.name, name), ""))
        slot.is_extra = task.plan.config.is_adaptive and len(task.slots) >= task.plan.config.least_workers
        self.state.slots.append(slot)
        task.slots.append(slot)
        return slot

    def start_again(self, slot: WorkerSlot, now: float) -> None:
        """Start a worker in a place that has none."""
        slot.phase, slot.start_at = Phase.WAITING, now
        slot.time_account.enter_state(STARTING, now)
        self._due.append(slot)

    def _renounce_extra(self, slot: WorkerSlot, why: str) -> bool:
        """Do without a worker that cannot be started, if the task has others; return False if it must have it."""
        if not slot.is_extra or self.on_extra_lost is None or slot.surplus:
            return slot.surplus
        if not any(other.phase is Phase.READY for other in slot.task.slots):
            return False
        slot.surplus = True
        self.on_extra_lost(slot.task, why)
        return True

    def _end_earlier_worker(self, task: TaskState) -> None:
        """Judge the items at which everything died for the last time: the task's first worker died over them, too."""
        slot = task.slots[0]
        lease = self.state.ledger.lease_lost_items(task.name, slot.index, MAX_CRASHES)
        if lease is None or self.on_earlier_death is None:
            return
        slot.leases.append(lease.id)
        slot.phase, slot.death_pending = Phase.ENDING, True
        exit_status, position = ExitStatus(text="died together with runner"), Position(lease.id, 0, lease.count)
        self.on_earlier_death(WorkerExited(slot.index, slot.generation, exit_status, position))

    def _start_worker(self, slot: WorkerSlot) -> None:
        slot.begin_generation()
        start = slot.history.restart_point()
        spec = self.state.plan.worker_spec(slot.task.plan, slot.name, slot.index, start)
        slot.node = ""
        try:
            slot.pid = slot.task.engine.start(spec, slot.generation)
        except SpawnError as error:
            slot.phase = Phase.GONE
            if self._renounce_extra(slot, str(error)):
                slot.time_account.enter_state(ENDED, self.state.clock.now())
            else:
                fail_task(self.state, slot.task, str(error))

    def on_ready(self, slot: WorkerSlot, message: Ready) -> None:
        """Give work to a worker that is set up."""
        if slot.phase is Phase.STARTING:
            slot.phase = Phase.READY
        slot.pid, slot.node, slot.last_node = message.pid, message.node, message.node
        slot.task.update_free_slot(slot)
        slot.task.count_acceptor(slot)
        slot.task.failed_starts = 0
        self.state.topology.ready_tasks.add(slot.task.name)
        self.state.check_starts = True
        now = self.state.clock.now()
        slot.time_account.enter_state(EXECUTING if slot.is_working else WAITING_FOR_REASON, now)
        self.state.emit(events.WorkerReady(now, slot.task.name, slot.name, slot.pid, slot.node))
        self.timeout_watchdog.watch_lease(slot.task)
        if slot.task.dismissed:
            dismiss_worker(self.state, slot)
        elif self.state.stopping and slot.task.is_source:
            slot.task.engine.send(slot.index, Stop(inputs_ended=False))
        elif slot.retiring:
            self._retire(slot)
        self.state.dirty_tasks.add_tasks((slot.task.name,))

    def on_leaving(self, event: WorkerLeaving) -> None:
        """Give no more to a worker whose machine is to be taken away: once it holds nothing, another one follows it."""
        if event.slot >= len(self.state.slots):  # a reader of suspect items: it is started again when it is needed
            return
        slot = self.state.slots[event.slot]
        if slot.generation == event.generation and slot.phase in {Phase.STARTING, Phase.READY}:
            slot.retiring = slot.leaving = True
            slot.task.count_acceptor(slot)
            if slot.phase is Phase.READY:
                self._retire(slot)

    def _retire(self, slot: WorkerSlot) -> None:
        if slot.task.is_source:  # its next worker goes on where it says that it ends
            slot.task.engine.send(slot.index, Stop(inputs_ended=False))
        else:
            self.timeout_watchdog.check_lifespan(slot)

    def on_finished(self, slot: WorkerSlot, message: Finished) -> None:
        """Take the result of a worker whose work is over, and await its end."""
        task = slot.task
        if message.returned_early and not task.dismissed and not task.is_source:
            task.returned_early = True
        slot.ended_by_itself = not message.returned_early
        if task.is_source and (slot.ended_by_itself or self.state.stopping):
            slot.retiring = False  # its machine was to be taken away, and no other worker has to go on
        if message.result is not None:
            task.results[slot.name] = message.result
        self.dispatcher.forfeit_credit(task, slot)
        now = self._await_exit(slot)
        self.state.emit(events.WorkerEnded(now, task.name, slot.name, message.result))

    def _await_exit(self, slot: WorkerSlot) -> float:
        """Note that a worker has said that it ends; return the time."""
        now = self.state.clock.now()
        slot.phase = Phase.FINISHED
        slot.time_account.enter_state(ENDED, now)
        self._exit_deadlines.pop(slot.index, None)
        self._exit_deadlines[slot.index] = now + self.state.plan.settings.grace + _EXIT_GRACE
        return now

    def on_failed(self, slot: WorkerSlot, message: Failed) -> None:
        """Restart a worker that cannot go on, or fail its task."""
        task, error = slot.task, message.error
        now = self._await_exit(slot)
        if message.failed_phase == "setup" and self._renounce_extra(slot, str(error)):
            return
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
        if message.failed_phase != "call" or not task.is_source or message.verdict == "reject":
            return False, attempt
        history = slot.history
        if history.saved is None and history.given_items + slot.received_items:
            return False, attempt  # it has not said that it can go on, and a thread's items are not compared
        slot.attempt += 1
        return may_retry(task.plan.config, attempt, message.error, asked=message.verdict == "retry"), attempt

    def on_death(self, event: WorkerExited) -> None:
        """Settle what follows from a worker that is gone for certain."""
        slot = self.state.slots[event.slot]
        if slot.generation != event.generation:
            return
        task = slot.task
        self._exit_deadlines.pop(slot.index, None)
        expected = slot.phase is Phase.FINISHED or bool(task.failure_reason) or self.state.killing
        again = (slot.restart_requested or (slot.retiring and not task.dismissed)) and not task.failure_reason
        again = again and not slot.surplus
        was, slot.phase = slot.phase, Phase.WAITING if again else Phase.GONE
        task.count_acceptor(slot)
        if expected or (again and slot.retiring):
            for lease in slot.leases:
                self.dispatcher.forget_lease(lease)
                self.state.ledger.release_lease(lease)
            slot.leases.clear()
            self.dispatcher.forfeit_credit(task, slot)
        else:
            self._handle_crash(slot, event, was=was)
        if slot.phase is Phase.WAITING:
            self._due.append(slot)
        slot.time_account.enter_state(STARTING if slot.phase is Phase.WAITING else ENDED, self.state.clock.now())
        finish_if_over(self.state, task)
        dirty = self.state.dirty_tasks
        dirty.add_tasks((task.name,))
        dirty.add_input_readers(task.name)
        dirty.add_input_writers(task.name)
        self.state.check_ends = True

    def _handle_crash(self, slot: WorkerSlot, event: WorkerExited, *, was: Phase) -> None:
        """Blame what the worker executed, give the rest again, and replace it."""
        task, now = slot.task, self.state.clock.now()
        overdue, why = slot.overdue_position is not None, str(event.exit_status)
        if overdue:
            why = f"exceeded its time limit of {format_seconds(task.plan.config.timeout or 0.0)} and was killed"
        blamed, told = self._settle_leases(slot, event, why)
        again, fatal, pause, was_ready = self._is_wanted_again(slot, event, was), "", 0.0, was is not Phase.STARTING
        if not again:
            pass
        elif task.is_source and not event.lost:
            fatal = self._why_source_failed(slot, event, why, was_ready=was_ready)
            pause = self.retry_policy.retry_pause(task, slot.attempt + slot.death_count)
        elif task.dismissed and was is Phase.ENDING and not blamed:
            again, is_class = False, task.plan.shape.kind == "class"  # its tear-down may have had something to write
            fatal = f"worker `{slot.name}` {why} in its tear-down" if is_class else ""
        elif not blamed and not overdue and not event.lost:
            fatal = self._why_not_restarted(slot, event, why, was_ready=was_ready)
            earlier = len(task.death_times) + task.failed_starts - 1  # none for a first death in the window
            pause = min(_MOST_PAUSE, _FIRST_PAUSE * 2.0 ** min(earlier - 1, 20)) if earlier > 0 else 0.0
        again = again and not fatal
        item = blamed[0] if blamed else ""
        told = told or (event.lost and not blamed)  # by its engine, in one word for all workers of the machine
        what = (item, again, self._preview(slot, item), max(1, len(blamed)), told)
        self.state.emit(events.WorkerDied(now, task.name, slot.name, slot.pid, why, *what, slot.node))
        if event.stack and not overdue:
            self.state.emit(events.Stack(now, task.name, slot.name, slot.pid, event.stack, why, slot.node))
        if again:
            slot.phase, slot.start_at = Phase.WAITING, now + pause
        elif fatal and task.is_source:
            self.shutdown.fail_or_stop_run(task, fatal)
        elif fatal:
            fail_task(self.state, task, fatal)

    def _is_wanted_again(self, slot: WorkerSlot, event: WorkerExited, was: Phase) -> bool:
        """Return False if no worker has to follow one that died, whatever it died of."""
        task = slot.task
        if task.failure_reason or self.state.killing:  # its item's death was the end of the task
            return False
        has_started = was is not Phase.STARTING or event.lost
        if slot.surplus or (not has_started and self._renounce_extra(slot, str(event.exit_status))):
            return False
        if not event.lost or was is Phase.ENDING:
            return True
        # Another one might have to wait for a place.
        is_stopped = task.is_source and self.state.stopping
        return not is_stopped and (not task.dismissed or must_still_run(self.state, slot))

    def _settle_leases(self, slot: WorkerSlot, event: WorkerExited, why: str) -> tuple[list[str], bool]:
        """Settle every lease of a dead worker; return the items of which one is blamed, and whether that was told."""
        blamed = [piece.item_id for _, piece in self.suspect_items(slot, event)]
        if slot.overdue_position:
            item = blamed[0] if blamed else ""
            what = (slot.task.name, slot.name, slot.pid, slot.task.plan.config.timeout or 0.0)
            now = self.state.clock.now()
            self.state.emit(events.ItemTimedOut(now, *what, item, self._preview(slot, item), slot.node))
        verdicts: list[tuple[Verdict, str]] = []
        for lease_id in list(slot.leases):
            self.dispatcher.forget_lease(lease_id)
            lease = self.state.ledger.leases[lease_id]
            suspects, finished = self._suspects(slot, lease, event)
            if not suspects:
                self.state.ledger.release_lease(lease_id)
                continue
            verdicts += self._judge_suspects(slot, lease_id, suspects, finished, event, why)
        slot.leases.clear()
        self.dispatcher.forfeit_credit(slot.task, slot)
        for verdict, error in verdicts:
            self.retry_policy.apply_on_error(slot.task, verdict, error)
        return blamed, bool(verdicts) and slot.overdue_position is not None

    @staticmethod
    def _preview(slot: WorkerSlot, item: str) -> str:
        """Return the preview of an item over which this worker has died."""
        return slot.suspect_previews.get(item, slot.preview) if item else ""

    def suspect_items(self, slot: WorkerSlot, event: WorkerExited) -> list[tuple[str, ItemRange]]:
        """Return the single items, with their queues, of which one may have killed the worker; the first first."""
        found: list[tuple[str, ItemRange]] = []
        for lease_id in slot.leases:
            lease = self.state.ledger.leases[lease_id]
            suspects, _ = self._suspects(slot, lease, event)
            for line, piece in lease.locate_ranges(suspects.start, len(suspects)):
                found += [(line.queue, piece.sub_range(at, 1)) for at in range(piece.count)]
        return found

    def _suspects(self, slot: WorkerSlot, lease: Lease, event: WorkerExited) -> tuple[range, int]:
        """Return the items of a lease that may have killed the worker, and how many before them it had finished."""
        if slot.task.is_async:  # all of them were in flight: each is suspect, and is given again alone
            is_new = event.lost and self.state.clock.now() - lease.granted_at < LOST_ITEM_SECONDS
            return range(0 if is_new else lease.count), 0
        if event.socket_broken:  # what it did since its last answer was not heard: any of these items may have done it
            return range(lease.count if lease.id == slot.leases[0] else 0), 0
        position = slot.overdue_position or event.position
        at = position.index - lease.finished_items
        if lease.id != position.lease or not 0 <= at < lease.count:
            return range(0), 0
        return range(at, min(at + position.width, lease.count)), at

    def _judge_suspects(
        self, slot: WorkerSlot, lease_id: int, suspects: range, finished: int, event: WorkerExited, why: str
    ) -> list[tuple[Verdict, str]]:
        given: list[tuple[Verdict, str]] = []
        alike: dict[tuple[type, int], tuple[tuple[ItemRange, Failure, Verdict], int]] = {}
        known = slot.overdue_position is not None and not (slot.task.is_async and len(slot.leases) > 1)

        def judge(piece: ItemRange) -> Verdict | None:
            if not known and piece.crashes + 1 < MAX_CRASHES:
                return None
            failure = self._failure_of(slot, piece, event, why)
            verdict = self.retry_policy.decide_verdict(slot, piece, failure, worker_died=True)
            given.append((verdict, str(failure.error)))
            kind = (type(verdict), piece.attempts + piece.crashes)
            first, count = alike.get(kind, ((piece, failure, verdict), 0))
            alike[kind] = (first, count + 1)
            return verdict

        settlement = self.state.ledger.settle_lost_lease(lease_id, suspects, finished, judge)
        assert settlement is not None
        for (piece, failure, verdict), count in alike.values():  # one death is one message, also of a batch
            self.retry_policy.report_verdict(slot, piece, failure, verdict, count)
        self.state.audit.ended_by_task[slot.task.name] += count_finished((each for each, _ in given), len(given))
        self.reply_handler.apply_settlement(settlement)
        return given

    def _failure_of(self, slot: WorkerSlot, piece: ItemRange, event: WorkerExited, why: str) -> Failure:
        preview = self._preview(slot, piece.item_id)
        if slot.overdue_position:
            error = self._timed_out(slot.task, event.stack)
            again = may_retry(slot.task.plan.config, piece.attempts + 1, error)
            return Failure(0, 1, error, preview, "retry" if again else "error")
        text = f"{piece.crashes + 1} workers died while they executed it, the last one {why}"
        return Failure(0, 1, ErrorText("WorkerDied", text, event.stack), preview)

    @staticmethod
    def _timed_out(task: TaskState, stack: str) -> ErrorText:
        limit = format_seconds(task.plan.config.timeout or 0.0)
        text = f"it took longer than its time limit of {limit}"
        return ErrorText(TimedOut.__name__, text, stack, class_names(TimedOut))

    def _why_source_failed(self, slot: WorkerSlot, event: WorkerExited, why: str, *, was_ready: bool) -> str:
        """Return why a task without inputs is not restarted, or ""; what it has sent, it passes over."""
        died = f"worker `{slot.name}` {why}"
        history = slot.history
        given = history.given_items + slot.received_items
        is_farther, history.items_at_death = given > history.items_at_death, given
        if slot.overdue_position:
            slot.attempt += 1
            error = self._timed_out(slot.task, event.stack)
            return "" if may_retry(slot.task.plan.config, slot.attempt - 1, error) else died
        if is_farther or not was_ready or not event.position.lease:
            slot.death_count = 0
            return self._why_not_restarted(slot, event, why, was_ready=was_ready)
        slot.death_count += 1
        return "" if slot.death_count < MAX_CRASHES else f"{died}; that call has now killed {MAX_CRASHES} workers"

    def _why_not_restarted(self, slot: WorkerSlot, event: WorkerExited, why: str, *, was_ready: bool) -> str:
        """Return why a worker that died over no item is not replaced, or ""."""
        task, now, died = slot.task, self.state.clock.now(), f"worker `{slot.name}` {why}"
        if not was_ready:
            task.failed_starts += 1
            evidence = f"\n{event.stack}" if event.stack else ""
            often = f"{MAX_FAILED_STARTS} times in a row{evidence}"
            return "" if task.failed_starts < MAX_FAILED_STARTS else f"{died} before it was ready, {often}"
        restarts = task.plan.config.restarts
        task.death_times.append(now)
        while task.death_times and task.death_times[0] < now - restarts.window:
            task.death_times.popleft()
        often = f"more than {restarts.times} such deaths within {format_seconds(restarts.window)}"
        return "" if len(task.death_times) <= restarts.times else f"{died}; {often} (`restarts` in the file)"
