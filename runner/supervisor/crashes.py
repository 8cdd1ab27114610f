"""A worker's death: which item to blame, what is given again, whether the worker is replaced.

pidfd readable ─▶ fenced (engine) ─▶ handled ─▶ blame the item it had under way ─▶ ledger ─▶ replace it
                                        │
                                        └▶ no item under way: counts against `restarts`, with a pause
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from runner import events
from runner.error_text import ErrorText, class_names
from runner.errors import TimedOut
from runner.supervisor.audit import count_finished
from runner.supervisor.run_state import Phase
from runner.supervisor.shutdown import fail_task
from runner.text import format_seconds
from runner.transport.messages import Failure
from runner.worker import may_retry

if TYPE_CHECKING:
    from runner.engines.engine_events import WorkerExited
    from runner.ledger import ItemRange, Lease, Verdict
    from runner.supervisor.dispatch import Dispatcher
    from runner.supervisor.replies import ReplyHandler
    from runner.supervisor.retry_policy import RetryPolicy
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.shutdown import Shutdown

#: Deaths of workers that an item may cause before it is a dead letter.
MAX_CRASHES = 3
#: Deaths before the first worker of a task was ready: its set-up is broken.
MAX_FAILED_STARTS = 3
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 5.0


class CrashHandler(Struct, eq=False):
    """Handles every death that the supervisor has not asked for."""

    state: RunState
    dispatcher: Dispatcher
    shutdown: Shutdown
    retry_policy: RetryPolicy
    reply_handler: ReplyHandler

    def handle_crash(self, slot: WorkerSlot, event: WorkerExited, *, was: Phase) -> None:
        """Blame what the worker executed, give the rest again, and replace it."""
        task, now = slot.task, self.state.clock.now()
        overdue = slot.overdue_position is not None
        why = self._death_cause(slot, event)
        blamed, told = self._settle_leases(slot, event, why)
        if task.failure_reason or self.state.killing:  # its item's death was the end of the task
            self._report_death(slot, event, why, blamed, again=False, told=told)
            return
        if task.is_source:
            self._handle_source_crash(slot, event, why, was=was)
            return
        if task.dismissed and was is Phase.ENDING and not blamed:
            self._report_death(slot, event, why, blamed, again=False)
            if task.plan.shape.kind == "class":  # its tear-down may have had something to write
                fail_task(self.state, task, f"worker `{slot.name}` {why} in its tear-down")
            return
        restart = bool(blamed) or overdue or self._may_restart(task, now, was_ready=was is not Phase.STARTING)
        self._report_death(slot, event, why, blamed, again=restart, told=told)
        if restart:
            self._restart_at(slot, now if blamed or overdue else now + self._restart_pause(task))
        else:
            fail_task(self.state, task, self._why_failed(slot, why, event.stack, was_ready=was is not Phase.STARTING))

    def _report_death(
        self, slot: WorkerSlot, event: WorkerExited, why: str, blamed: list[str], *, again: bool, told: bool = False
    ) -> None:
        now = self.state.clock.now()
        item = blamed[0] if blamed else ""
        what = (item, again, self._preview(slot, item), max(1, len(blamed)), told)
        self.state.emit(events.WorkerDied(now, slot.task.name, slot.name, slot.pid, why, *what))
        if event.stack and not slot.overdue_position:
            self.state.emit(events.Stack(now, slot.task.name, slot.name, slot.pid, event.stack, why))

    @staticmethod
    def _death_cause(slot: WorkerSlot, event: WorkerExited) -> str:
        if slot.overdue_position:
            return f"exceeded its time limit of {format_seconds(slot.task.plan.config.timeout or 0.0)} and was killed"
        return str(event.exit_status)

    @staticmethod
    def _restart_at(slot: WorkerSlot, when: float) -> None:
        slot.phase = Phase.WAITING
        slot.start_at = when

    # -- blame ---------------------------------------------------------------------------------

    def _settle_leases(self, slot: WorkerSlot, event: WorkerExited, why: str) -> tuple[list[str], bool]:
        """Settle every lease of a dead worker; return the items of which one is blamed, and whether that was told."""
        blamed = [piece.item_id for _, piece in self.suspect_items(slot, event)]
        if slot.overdue_position:
            self._tell_overdue(slot, blamed[0] if blamed else "")
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

    def _tell_overdue(self, slot: WorkerSlot, item: str) -> None:
        limit = slot.task.plan.config.timeout or 0.0
        what = (slot.task.name, slot.name, slot.pid, limit, item, self._preview(slot, item))
        self.state.emit(events.ItemTimedOut(self.state.clock.now(), *what))

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
        config = slot.task.plan.config
        if slot.task.is_async:  # all of them were in flight: each is suspect, and is given again alone
            return range(lease.count), 0
        if event.socket_broken:  # what it did since its last answer was not heard: any of these items may have done it
            return range(lease.count if lease.id == slot.leases[0] else 0), 0
        position = slot.overdue_position or event.position
        at = position.index - lease.finished_items
        if lease.id != position.lease or not 0 <= at < lease.count:
            return range(0), 0
        width = config.batch.items if config.batch else position.width
        return range(at, min(at + width, lease.count)), at

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
        self.state.audit.ended_by_task[slot.task.name] += count_finished(
            dict(enumerate(each for each, _ in given)), len(given)
        )
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

    # -- whether it is replaced ----------------------------------------------------------------

    def _handle_source_crash(self, slot: WorkerSlot, event: WorkerExited, why: str, *, was: Phase) -> None:
        """Restart or fail a task without inputs: its call is the one item. What it has sent cannot be taken back."""
        task, now = slot.task, self.state.clock.now()
        fatal = ""
        if slot.received_items:
            sent = f"after it had sent {slot.received_items:,} items"
            fatal = f"worker `{slot.name}` {why} {sent}; a source cannot go on where it was"
        elif slot.overdue_position:
            error = self._timed_out(task, event.stack)
            if not may_retry(slot.task.plan.config, slot.attempt, error):
                fatal = f"worker `{slot.name}` {why}"
            slot.attempt += 1
        elif was is Phase.STARTING or not event.position.lease:
            if not self._may_restart(task, now, was_ready=was is not Phase.STARTING):
                fatal = self._why_failed(slot, why, event.stack, was_ready=was is not Phase.STARTING)
        else:
            slot.death_count += 1
            if slot.death_count >= MAX_CRASHES:
                fatal = f"worker `{slot.name}` {why}; that call has now killed {MAX_CRASHES} workers"
        self._report_death(slot, event, why, [], again=not fatal)
        if fatal:
            self.shutdown.fail_or_stop_run(task, fatal)
        else:
            self._restart_at(slot, now + self.retry_policy.retry_pause(task, slot.attempt + slot.death_count))

    def _may_restart(self, task: TaskState, now: float, *, was_ready: bool) -> bool:
        if not was_ready:
            task.failed_starts += 1
            return task.failed_starts < MAX_FAILED_STARTS
        restarts = task.plan.config.restarts
        task.death_times.append(now)
        while task.death_times and task.death_times[0] < now - restarts.window:
            task.death_times.popleft()
        return len(task.death_times) <= restarts.times

    @staticmethod
    def _restart_pause(task: TaskState) -> float:
        """Return the seconds before the next worker: none for a first death in the window, then longer each time."""
        earlier = len(task.death_times) + task.failed_starts - 1
        if earlier < 1:
            return 0.0
        return min(_MOST_PAUSE, _FIRST_PAUSE * 2.0 ** min(earlier - 1, 20))

    @staticmethod
    def _why_failed(slot: WorkerSlot, why: str, stack: str, *, was_ready: bool) -> str:
        if not was_ready:
            evidence = f"\n{stack}" if stack else ""
            return f"worker `{slot.name}` {why} before it was ready, {MAX_FAILED_STARTS} times in a row{evidence}"
        restarts = slot.task.plan.config.restarts
        window = format_seconds(restarts.window)
        often = f"more than {restarts.times} such deaths within {window} (`restarts` in the file)"
        return f"worker `{slot.name}` {why}; {often}"
