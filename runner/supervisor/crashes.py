"""What follows from a worker's death: whom to blame, what is given again, whether somebody takes its place.

pidfd readable ─▶ fenced (fleet) ─▶ buried ─▶ blame the item its cell showed ─▶ ledger ─▶ replace it
                                      │
                                      └▶ no item under way: counts against `restarts`, with a pause
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.error_text import ErrorText, class_names
from runner.errors import TimedOut
from runner.supervisor.audit import over
from runner.supervisor.retry_policy import Fault
from runner.supervisor.run_state import Phase
from runner.supervisor.words import seconds
from runner.worker import retryable

if TYPE_CHECKING:
    from runner.engines.base import Died
    from runner.ledger import Lease, Piece, Verdict
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.run_state import Slot, TaskState

#: Deaths of workers that an item may cause before it is a dead letter.
CRASHES = 3
#: Deaths before the first worker of a task was ready: its set-up is broken.
BOOTS = 3
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 5.0


class Deaths:
    """Every death that nobody had asked for."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def crashed(self, slot: Slot, event: Died, *, was: Phase) -> None:
        """A worker is gone that should not be. Blame what it executed, give the rest again, and replace it."""
        task, now = slot.task, self.supervisor.clock.now()
        overdue = slot.overdue is not None
        why = self._why(slot, event)
        blamed, told = self._blame(slot, event, why)
        if task.failed or self.supervisor.ends.dying:  # its item's death was the end of the task
            self._tell(slot, event, why, blamed, again=False, told=told)
            return
        if task.is_source:
            self._source(slot, event, why, was=was)
            return
        if task.ended and was is Phase.ENDING and not blamed:
            self._tell(slot, event, why, blamed, again=False)
            if task.plan.shape.kind == "class":  # its tear-down may have had something to write
                self.supervisor.staff.fail(task, f"worker `{slot.name}` {why} in its tear-down")
            return
        restart = bool(blamed) or overdue or self._may_restart(task, now, was_ready=was is not Phase.STARTING)
        self._tell(slot, event, why, blamed, again=restart, told=told)
        if restart:
            self._replace(slot, now if blamed or overdue else now + self._pause(task))
        else:
            self.supervisor.staff.fail(
                task, self._why_failed(slot, why, event.stack, was_ready=was is not Phase.STARTING)
            )

    def _tell(self, slot: Slot, event: Died, why: str, blamed: list[str], *, again: bool, told: bool = False) -> None:
        now = self.supervisor.clock.now()
        item = blamed[0] if blamed else ""
        what = (item, again, self._look(slot, item), max(1, len(blamed)), told)
        self.supervisor.emit(events.WorkerDied(now, slot.task.name, slot.name, slot.pid, why, *what))
        if event.stack and not slot.overdue:
            self.supervisor.emit(events.Stack(now, slot.task.name, slot.name, slot.pid, event.stack, why))

    @staticmethod
    def _why(slot: Slot, event: Died) -> str:
        if slot.overdue:
            return f"exceeded its time limit of {seconds(slot.task.plan.config.timeout or 0.0)} and was killed"
        return str(event.death)

    @staticmethod
    def _replace(slot: Slot, when: float) -> None:
        slot.phase = Phase.WAITING
        slot.start_at = when

    # -- blame ---------------------------------------------------------------------------------

    def _blame(self, slot: Slot, event: Died, why: str) -> tuple[list[str], bool]:
        """Settle every lease of a dead worker; return the items of which one is blamed, and whether that was told."""
        blamed = [piece.item_id for _, piece in self.suspects(slot, event)]
        if slot.overdue:
            self._tell_overdue(slot, blamed[0] if blamed else "")
        verdicts: list[tuple[Verdict, str]] = []
        for lease_id in list(slot.leases):
            self.supervisor.feeder.settled(lease_id)
            lease = self.supervisor.ledger.leases[lease_id]
            suspects, finished = self._suspects(slot, lease, event)
            if not suspects:
                self.supervisor.ledger.release(lease_id)
                continue
            verdicts += self._condemn(slot, lease_id, suspects, finished, event, why)
        slot.leases.clear()
        self.supervisor.feeder.forfeit(slot.task, slot)
        for verdict, error in verdicts:
            self.supervisor.verdicts.after(slot.task, verdict, error)
        return blamed, bool(verdicts) and slot.overdue is not None

    def _tell_overdue(self, slot: Slot, item: str) -> None:
        limit = slot.task.plan.config.timeout or 0.0
        what = (slot.task.name, slot.name, slot.pid, limit, item, self._look(slot, item))
        self.supervisor.emit(events.TimedOut(self.supervisor.clock.now(), *what))

    @staticmethod
    def _look(slot: Slot, item: str) -> str:
        """What an item looks like over which this worker has died."""
        return slot.looks.get(item, slot.preview) if item else ""

    def suspects(self, slot: Slot, event: Died) -> list[tuple[str, Piece]]:
        """The single items, with their queues, of which one may have killed the worker; the first of them first."""
        found: list[tuple[str, Piece]] = []
        for lease_id in slot.leases:
            lease = self.supervisor.ledger.leases[lease_id]
            suspects, _ = self._suspects(slot, lease, event)
            for line, piece in lease.locate(suspects.start, len(suspects)):
                found += [(line.queue, piece.part(at, 1)) for at in range(piece.count)]
        return found

    def _suspects(self, slot: Slot, lease: Lease, event: Died) -> tuple[range, int]:
        """The items of a lease that may have killed the worker, and how many before them it had finished."""
        config = slot.task.plan.config
        if slot.task.flying:  # all of them were in flight: each is suspect, and is given again alone
            return range(lease.count), 0
        if event.spoiled:  # what it did since its last answer was not heard: any of these items may have done it
            return range(lease.count if lease.id == slot.leases[0] else 0), 0
        position = slot.overdue or event.position
        at = position.index - lease.over
        if lease.id != position.lease or not 0 <= at < lease.count:
            return range(0), 0
        width = config.batch.items if config.batch else position.width
        return range(at, min(at + width, lease.count)), at

    def _condemn(
        self, slot: Slot, lease_id: int, suspects: range, finished: int, event: Died, why: str
    ) -> list[tuple[Verdict, str]]:
        given: list[tuple[Verdict, str]] = []
        alike: dict[tuple[type, int], tuple[tuple[Piece, Fault, Verdict], int]] = {}
        known = slot.overdue is not None and not (slot.task.flying and len(slot.leases) > 1)

        def judge(piece: Piece) -> Verdict | None:
            if not known and piece.crashes + 1 < CRASHES:
                return None
            fault = self._fault(slot, piece, event, why)
            verdict = self.supervisor.verdicts.decide(slot, piece, fault)
            given.append((verdict, str(fault.error)))
            kind = (type(verdict), piece.attempts + piece.crashes)
            first, count = alike.get(kind, ((piece, fault, verdict), 0))
            alike[kind] = (first, count + 1)
            return verdict

        settlement = self.supervisor.ledger.lost(lease_id, suspects, finished, judge)
        assert settlement is not None
        for (piece, fault, verdict), count in alike.values():  # one death is one message, also of a batch
            self.supervisor.verdicts.tell(slot, piece, fault, verdict, count)
        self.supervisor.audit.ended[slot.task.name] += over(dict(enumerate(each for each, _ in given)), len(given))
        self.supervisor.hearing.follow(settlement)
        return given

    def _fault(self, slot: Slot, piece: Piece, event: Died, why: str) -> Fault:
        look = self._look(slot, piece.item_id)
        if slot.overdue:
            error = self._timed_out(slot.task, event.stack)
            return Fault(error, retryable(slot.task.plan.config.retry_on, error), 1, look, died=True)
        text = f"{piece.crashes + 1} workers died while they executed it, the last one {why}"
        return Fault(ErrorText("WorkerDied", text, event.stack), False, 1, look, died=True)

    @staticmethod
    def _timed_out(task: TaskState, stack: str) -> ErrorText:
        limit = seconds(task.plan.config.timeout or 0.0)
        text = f"it took longer than its time limit of {limit}"
        return ErrorText(TimedOut.__name__, text, stack, class_names(TimedOut))

    # -- whether it is replaced ----------------------------------------------------------------

    def _source(self, slot: Slot, event: Died, why: str, *, was: Phase) -> None:
        """A task without inputs: its call is the one item. What it has sent cannot be taken back."""
        task, now, config = slot.task, self.supervisor.clock.now(), slot.task.plan.config
        fatal = ""
        if slot.received:
            sent = f"after it had sent {slot.received:,} items"
            fatal = f"worker `{slot.name}` {why} {sent}; a source cannot go on where it was"
        elif slot.overdue:
            error = self._timed_out(task, event.stack)
            if slot.attempt >= config.attempts or not retryable(config.retry_on, error):
                fatal = f"worker `{slot.name}` {why}"
            slot.attempt += 1
        elif was is Phase.STARTING or not event.position.lease:
            if not self._may_restart(task, now, was_ready=was is not Phase.STARTING):
                fatal = self._why_failed(slot, why, event.stack, was_ready=was is not Phase.STARTING)
        else:
            slot.deaths += 1
            if slot.deaths >= CRASHES:
                fatal = f"worker `{slot.name}` {why}; that call has now killed {CRASHES} workers"
        self._tell(slot, event, why, [], again=not fatal)
        if fatal:
            self.supervisor.staff.fatal(task, fatal)
        else:
            self._replace(slot, now + self.supervisor.verdicts.pause(task, slot.attempt + slot.deaths))

    def _may_restart(self, task: TaskState, now: float, *, was_ready: bool) -> bool:
        if not was_ready:
            task.boots_lost += 1
            return task.boots_lost < BOOTS
        restarts = task.plan.config.restarts
        task.deaths.append(now)
        while task.deaths and task.deaths[0] < now - restarts.window:
            task.deaths.popleft()
        return len(task.deaths) <= restarts.times

    @staticmethod
    def _pause(task: TaskState) -> float:
        """Before the next worker: none for a first death in the window, then longer each time."""
        earlier = len(task.deaths) + task.boots_lost - 1
        if earlier < 1:
            return 0.0
        return min(_MOST_PAUSE, _FIRST_PAUSE * 2.0 ** min(earlier - 1, 20))

    @staticmethod
    def _why_failed(slot: Slot, why: str, stack: str, *, was_ready: bool) -> str:
        if not was_ready:
            evidence = f"\n{stack}" if stack else ""
            return f"worker `{slot.name}` {why} before it was ready, {BOOTS} times in a row{evidence}"
        restarts = slot.task.plan.config.restarts
        return (
            f"worker `{slot.name}` {why}; more than {restarts.times} such deaths within {seconds(restarts.window)}"
            " (`restarts` in the file)"
        )
