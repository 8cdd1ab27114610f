"""Granting items to workers, and credit to sources.

Bounds act here, and only here: a task is granted items only while its output queues have room, so a queue is never
more over its bound than what is in flight. Nothing ever blocks inside a worker, so a cycle cannot deadlock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.chunk_sizing import MOST_BYTES, SLICE
from runner.structs import dataclass
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import EXECUTING, ITEM, ROOM, TURN, WAITS
from runner.transport.messages import Credit, Grant, LetterText, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from runner.clock import Clock
    from runner.ledger import Lease, Ledger, Piece
    from runner.supervisor.rate_limit import Throttle
    from runner.supervisor.run_state import Slot, TaskState
    from runner.supervisor.timeouts import Watch


#: An elastic queue holds what its readers can do in so many slices; more items than these only leave the cache.
_SLICES, MOST_ELASTIC = 2, 1 << 17


@dataclass(frozen=True, slots=True)
class Letter:
    """The payload of a chunk that is one dead letter: the item where it lay, and what is said of it."""

    payload: Any
    index: int
    kind: int
    number: int
    text: LetterText


class Feeder:
    """Decides who gets what, and sends it."""

    def __init__(self, ledger: Ledger, kinds: dict[str, int], clock: Clock) -> None:
        self.ledger = ledger
        self.kinds = kinds
        self.clock = clock
        #: Who reads each queue.
        self.readers: Mapping[str, list[TaskState]] = {}
        #: Sources whose items have arrived and who were not told, because their readers have enough to do.
        self.unaware: set[str] = set()
        #: Told of each grant, because of time limits.
        self.watch: Watch | None = None
        #: Tasks whose `rate` makes them wait, and until when.
        self.throttled: dict[str, float] = {}
        #: Items that granted work is expected to put into each queue: one for each item, until it is answered.
        self.expected: dict[str, int] = defaultdict(int)
        self._owed: dict[int, tuple[tuple[str, ...], int]] = {}

    # -- room ----------------------------------------------------------------------------------

    def room(self, task: TaskState) -> tuple[int, bool]:
        """Items that this task may still produce, by the bounds of all its outputs, and what others are expected to.

        Also whether one of its outputs is at its bound: then nobody may produce anything for it. What an order holds
        back is as good as there.
        """
        least, full, held = 1 << 60, False, self._held(task)
        for queue in task.bounding:
            room = self.ledger.room_in(queue)
            if held:
                room -= held.get(queue, 0)
            full = full or room <= 0
            least = min(least, room - self.expected[queue])
        return least, full

    def _held(self, task: TaskState) -> Mapping[str, int]:
        """The results for each queue that wait for those before them."""
        order = self.ledger.orders.get(task.name)
        return {} if order is None else order.held

    def stretch(self, task: TaskState) -> None:
        """Its inputs may hold what its workers do in a moment, as far as they can go on with it.

        They can as far as its own outputs are as large, or as they have gone on until now: who waits for room gets no
        more than anybody. So a run is nowhere farther ahead than by what a queue holds, or by a moment.
        """
        grain = task.grain
        if not grain.cost:
            return
        most = MOST_ELASTIC * grain.slice / SLICE  # a crowd, whose slices are longer, needs more
        moment = min(most, _SLICES * grain.slice * len(task.slots) / grain.cost)
        onward = 0 if task.throttle else min(map(self.ledger.bound, task.bounding), default=1 << 60)
        self.ledger.stretch(task.name, int(min(moment, max(onward, task.unhindered // 2))))

    def _hinder(self, task: TaskState) -> None:
        """Its workers wait for room, or for their turn."""
        if task.unhindered:
            task.unhindered = 0
            self.stretch(task)

    def _expect(self, queues: tuple[str, ...], items: int) -> None:
        for queue in queues:
            self.expected[queue] += items

    def settled(self, lease: int) -> None:
        """A lease is over: what was expected of it has come, or never will."""
        queues, items = self._owed.pop(lease, ((), 0))
        if self.watch is not None:
            self.watch.settled(lease)
        self._expect(queues, -items)

    def partly(self, lease: int, done: int) -> None:
        """A part of a lease is over; its worker goes on."""
        queues, items = self._owed[lease]
        self._owed[lease] = (queues, items - done)
        self._expect(queues, -done)

    # -- grants --------------------------------------------------------------------------------

    def feed(self, task: TaskState, *, flush: bool = False) -> None:
        """Grant what may be granted. `flush`: a batch need not be full."""
        if task.is_source:
            self._credit(task)
        elif self.ledger.available(task.name):
            if task.flying:
                self._feed_flying(task)
            else:
                self._feed_in_turn(task, flush=flush)
        if task.free[0] or task.is_source or task.flying:  # else nobody waits
            task.waiting.because(self._why_free(task), self.clock.now())

    def _why_free(self, task: TaskState) -> int:
        """Why workers that are free now were given nothing."""
        if task.name in self.throttled:
            return TURN
        if task.is_source:
            return ROOM
        if not self.ledger.available(task.name):
            return TURN if self.ledger.queued(task.name) else ITEM
        room, full = self.room(task)
        if full or room <= 0:
            ordered = any(self._held(task).values()) and all(self.ledger.room_in(queue) for queue in task.bounding)
            return TURN if ordered else ROOM
        return ITEM  # what is there is not yet a full batch

    def _feed_in_turn(self, task: TaskState, *, flush: bool) -> None:
        """Everybody gets one before anybody gets two; who is busy is not looked at, however many they are."""
        if task.takers is None:
            task.takers = sum(slot.takes for slot in task.slots)
        refused: list[Slot] = []
        mortal = task.plan.config.lifespan is not None  # then it may be one worker alone that gets no more
        for held in range(task.depth):
            while task.free[held] and self.ledger.available(task.name) and (not refused or mortal):
                slot = task.free[held].popitem()[1]
                if len(slot.leases) == held and slot.takes and not self._give(task, slot, flush=flush):
                    refused.append(slot)
        for slot in refused:
            task.may_take(slot)

    def _give(self, task: TaskState, slot: Slot, *, flush: bool) -> bool:
        grant = self._grant(task, slot, task.takers or 1, flush=flush)
        if grant is None:
            return False
        task.may_take(slot)
        task.fleet.send(slot.index, grant)
        return True

    def _feed_flying(self, task: TaskState) -> None:
        """One item for each lease; but a suspect flies alone, so that its next crash tells whose fault it was."""
        ready = [slot for slot in task.slots if slot.takes]
        grants: dict[int, list[Grant]] = defaultdict(list)
        for slot in self._in_turn(ready, task.depth):
            if slot.flies_alone in slot.leases or (slot.leases and self.ledger.suspect_first(task.name)):
                continue
            grant = self._grant(task, slot, len(ready), flush=False)
            if grant is None:
                break
            if any(part.crashes for part in grant.parts):
                slot.flies_alone = grant.lease
            grants[slot.index].append(grant)
        for index, (first, *others) in grants.items():
            task.fleet.send(index, replace(first, others=tuple(others)) if others else first)

    @staticmethod
    def _in_turn(ready: list[Slot], depth: int) -> Iterator[Slot]:
        """Everybody gets one before anybody gets two."""
        for held in range(1, depth + 1):
            for slot in ready:
                if len(slot.leases) < held:
                    yield slot

    def _grant(self, task: TaskState, slot: Slot, takers: int, *, flush: bool) -> Grant | None:
        """Lease items to a worker; what to tell it, or None when it gets nothing."""
        items = self._how_many(task, slot, takers)
        if not items:
            return None
        least = together = 1
        if (batch := task.plan.config.batch) is not None:
            together = batch.items
            least = 1 if flush else together
            items = max(batch.items, items // batch.items * batch.items)
            available = self.ledger.available(task.name)
            if available >= batch.items:
                items = min(items, available // batch.items * batch.items)
        if task.throttle is not None:
            items = min(items, self._allowed(task, task.throttle, least))
            if not items:
                return None
        lease = self.ledger.take(task.name, slot.index, items, MOST_BYTES, least, task.light, together)
        if lease is None:
            return None
        if task.throttle is not None:
            task.throttle.take(lease.count)
        if not slot.leases:
            slot.hours.turn_to(EXECUTING, self.clock.now())
        slot.leases.append(lease.id)
        if self.watch is not None:
            self.watch.granted(task, lease.id)
        self._owed[lease.id] = (task.bounding, lease.count)
        self._expect(task.bounding, lease.count)
        return Grant(lease.id, task.grain.slice, self._parts(lease))

    def _how_many(self, task: TaskState, slot: Slot, takers: int) -> int:
        available = self.ledger.available(task.name)
        if not available:
            return 0
        room, full = self.room(task)
        if full and not self.ledger.returned_first(task.name):
            self._hinder(task)
            return 0
        held = sum([self.ledger.leases[lease].count for lease in slot.leases]) if slot.leases else 0
        wanted = 1 if task.flying else task.grain.items(available, takers, self.ledger.leased[task.name], held)
        lifespan = task.plan.config.lifespan
        if lifespan is not None and lifespan.items is not None:
            wanted = min(wanted, lifespan.items - slot.items - held)
            if wanted <= 0:
                return 0
        if room <= 0:
            # There is room, but others are expected to fill it: an idle worker may still execute one item.
            return 0 if slot.leases and not task.flying else 1
        return min(wanted, room)

    def _allowed(self, task: TaskState, throttle: Throttle, least: int) -> int:
        """Items that the task's `rate` allows now; when there are none, look again in time."""
        now = self.clock.now()
        allowed = throttle.most(now, least)
        if not allowed:
            self._hinder(task)
            self.throttled[task.name] = throttle.ready_at(now, least)
        return allowed

    def wake(self, now: float) -> list[str]:
        """The tasks whose `rate` lets them go on now."""
        if not self.throttled:
            return []
        woken = [name for name, when in self.throttled.items() if when <= now]
        for name in woken:
            del self.throttled[name]
        return woken

    def next_time(self) -> float | None:
        """When the first of them may go on."""
        return min(self.throttled.values()) if self.throttled else None

    def _parts(self, lease: Lease) -> tuple[Part, ...]:
        return tuple([self.part(line.queue, piece) for line, piece in lease.pieces])

    def part(self, queue: str, piece: Piece) -> Part:
        """A piece as a worker is given it."""
        tries, payload = (piece.attempts + 1, piece.crashes), piece.chunk.payload
        if isinstance(payload, Letter):
            return Part(piece.chunk.number, payload.index, 1, *tries, payload.kind, payload.payload, payload.text)
        return Part(piece.chunk.number, piece.start, piece.count, *tries, self.kinds[queue], payload)

    # -- credit --------------------------------------------------------------------------------

    def _credit(self, task: TaskState) -> None:
        if not task.groups:
            return
        now = self.clock.now()
        self.unaware.discard(task.name)
        for slot in task.slots:
            if slot.phase is Phase.READY:
                self._credit_slot(task, slot)
                slot.hours.turn_to(EXECUTING if slot.credit > slot.received else WAITS, now)

    def _credit_slot(self, task: TaskState, slot: Slot) -> None:
        outstanding = slot.credit - slot.received
        room, full = self.room(task)
        if full:
            return
        share = max(1, room // max(1, len(task.slots)))
        if room <= 0:
            share = 0 if outstanding else 1
        if outstanding >= max(1, share // 2):
            if not slot.unacked:
                return
            if self._has_ample(task):  # it goes on making; what it has made by then leaves together
                self.unaware.add(task.name)
                return
        if share and task.throttle is not None:
            share = min(share, self._allowed(task, task.throttle, 1))
            task.throttle.take(share)
        if not share and not slot.unacked:
            return
        slot.credit += share
        slot.unacked = False
        self._expect(task.bounding, share)
        task.fleet.send(slot.index, Credit(slot.credit, task.grain.slice))

    def _has_ample(self, task: TaskState) -> bool:
        """Whether all who read what a task makes are busy, and have enough in their queues for a while."""
        return all(
            not reader.free[0]
            and reader.takers
            and reader.grain.ample(self.ledger.available(reader.name), reader.takers)
            for group in task.groups
            for queue in group.queues
            for reader in self.readers[queue]
        )

    def arrived(self, task: TaskState, slot: Slot, items: int) -> None:
        """A source's items have arrived."""
        slot.received += items
        slot.unacked = True
        self._expect(task.bounding, -items)

    def forfeit(self, task: TaskState, slot: Slot) -> None:
        """A source has ended: the credit that it has not used is free again."""
        self._expect(task.bounding, -max(0, slot.credit - slot.received))
        slot.credit = slot.received

    def flushable(self, tasks: Iterable[TaskState]) -> list[TaskState]:
        """The tasks that have items which only wait for their batch to fill."""
        return [
            task
            for task in tasks
            if task.plan.config.batch is not None
            and 0 < self.ledger.available(task.name) < task.plan.config.batch.items
        ]
