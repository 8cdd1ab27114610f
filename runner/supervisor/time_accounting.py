"""Time of each worker: every second of its place in the run is in exactly one of `events.STATES`.

    starting ─▶ waits (for an item, for room, for its turn) ◀─▶ executing (and encoding) ─▶ ended

A worker works while it holds a lease (a source: while it has credit). How much of that it did work it says itself, in
each answer; what remains of the time since its last answer was an item's way to it. Why it waits is the same for all
free workers of a task at any moment, so that is kept once for the task (`WaitReason`), and a worker is looked at only
when it begins to wait and when it ends to: what a chunk costs does not grow with the number of workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.events import STATES, Spent, WorkerNow

if TYPE_CHECKING:
    from runner.transport.messages import MeasuredTimes

STARTING, ITEM, EXECUTING, ENCODING, ROOM, TURN, ENDED = range(len(STATES))
#: Its task's `WaitReason` knows which of `ITEM`, `ROOM`, `TURN`.
WAITING_FOR_REASON = -1


class WaitReason:
    """The reason for which the free workers of a task wait, and how long each reason has held since the run began."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        #: The reason, since when it holds, and how long each had held until then; another object after each change.
        self.current: tuple[int, float, tuple[float, float, float]] = (ITEM, 0.0, (0.0, 0.0, 0.0))

    def set_reason(self, reason: int, now: float) -> None:
        """Let them wait for this reason from now on."""
        if reason != self.current[0]:
            self.current = (reason, now, totals_until(self.current, now))


def totals_until(current: tuple[int, float, tuple[float, float, float]], now: float) -> tuple[float, float, float]:
    """Return how long each reason has held: item, room, turn. Only differences of two answers mean anything.

    >>> waiting = WaitReason(); before = totals_until(waiting.current, 1.0); waiting.set_reason(ROOM, 3.0)
    >>> [after - since for after, since in zip(totals_until(waiting.current, 7.0), before)]
    [2.0, 4.0, 0.0]
    """
    reason, since, (item, room, turn) = current
    span = now - since
    return item + span * (reason == ITEM), room + span * (reason == ROOM), turn + span * (reason == TURN)


class TimeAccount:
    """One worker's place: the seconds in each state, and what its workers have told of themselves.

    `idle_state` is what a worker waits for that has work and is not at it: an item on its way, or, for a source, room.
    """

    __slots__ = ("_assumed", "_seen", "_since", "_totals", "_waiting", "cpu", "idle_state", "items", "memory", "state")

    def __init__(self, waiting: WaitReason, began: float, now: float, idle_state: int = ITEM) -> None:
        self.state = STARTING
        self.items = 0
        self.cpu = 0.0
        self.memory: int | None = None
        self.idle_state = idle_state
        self._waiting = waiting
        self._totals = [0.0] * len(STATES)
        self._totals[TURN] = now - began
        self._since = now
        #: Seconds since it last said how long it had worked that were told as such meanwhile, as nothing was known yet.
        self._assumed = 0.0
        #: What held when it began to wait.
        self._seen = waiting.current

    def enter_state(self, state: int, now: float) -> None:
        """Let it be in this state from now on."""
        if state != self.state:
            self._settle_until(now)
            self.state, self._assumed = state, 0.0
            self._seen = self._waiting.current

    def _settle_until(self, now: float) -> None:
        state, current = self.state, self._waiting.current
        if state != WAITING_FOR_REASON:
            self._totals[state] += now - self._since
            if state == EXECUTING:
                self._assumed += now - self._since
        elif current is self._seen:  # it has waited for one reason all the time
            self._totals[current[0]] += now - self._since
        else:
            before, after = totals_until(self._seen, self._since), totals_until(current, now)
            for reason, then, until_now in zip((ITEM, ROOM, TURN), before, after, strict=True):
                self._totals[reason] += until_now - then
            self._seen = current
        self._since = now

    def add_work(self, now: float, busy: float, coding: float) -> None:
        """Add what the worker says that it has worked since it last said so, and how much of that went into codecs."""
        if self.state != EXECUTING:
            return
        assumed, self._assumed = self._assumed, 0.0
        span = now - self._since + assumed
        work = min(span, busy)
        coded = min(work, coding)
        totals = self._totals
        totals[EXECUTING] += work - coded - assumed
        totals[ENCODING] += coded
        totals[self.idle_state] += span - work
        self._since = now

    def add_measured(self, times: MeasuredTimes) -> None:
        """Add what its worker has measured since it last said so."""
        self.cpu += times.cpu_seconds
        if times.peak_memory:
            self.memory = max(self.memory or 0, times.peak_memory)

    def spent_until(self, now: float) -> Spent:
        """Return the seconds until now; they add up to the time since the run began."""
        self._settle_until(now)
        return Spent(*self._totals)

    def worker_now(self, name: str, pid: int, now: float, item_age: float | None = None, node: str = "") -> WorkerNow:
        """Return the worker as events show it."""
        state = STATES[self._waiting.current[0] if self.state == WAITING_FOR_REASON else self.state]
        return WorkerNow(name, state, self.spent_until(now), pid, self.items, self.cpu, self.memory, item_age, node)
