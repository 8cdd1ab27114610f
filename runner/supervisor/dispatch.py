"""Granting items to workers, and credit to sources.

Bounds act here, and only here: a task is granted items only while its output queues have room, so a queue is never
more over its bound than what is in flight. Nothing ever blocks inside a worker, so a cycle cannot deadlock.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec.structs import replace

from runner.chunk_sizing import MAX_GRANT_BYTES, TIME_SLICE
from runner.supervisor.dead_letters import DeadLetterPayload
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import EXECUTING, ITEM, ROOM, TURN, WAITING_FOR_REASON
from runner.transport.messages import Credit, Grant, GrantedRange, SharedPayload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runner.ledger.leases import Lease
    from runner.ledger.subscriptions import ItemRange
    from runner.supervisor.rate_limit import TokenBucket
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.timeouts import TimeoutWatchdog


#: An elastic queue holds what its readers can do in so many slices; more items than these only leave the cache.
_SLICES, _MAX_ELASTIC_ITEMS = 2, 1 << 17
#: Nor more than these for each reader, of whom two are counted at least: with one or two, all of them are in memory for
#: nothing. # bench small: without it 48 MB of PSS, with it 46.5
_MAX_ELASTIC_ITEMS_PER_READER = 1 << 15
#: All idle workers of a task together may go beyond what is expected in a queue by this part of its bound.
_IDLE_PARTS = 8


def max_elastic_items(readers: int) -> int:
    """Return the most items that an elastic queue of so many readers holds.

    >>> [max_elastic_items(readers) for readers in (1, 2, 3, 4, 64)]
    [65536, 65536, 98304, 131072, 131072]
    """
    return min(_MAX_ELASTIC_ITEMS, _MAX_ELASTIC_ITEMS_PER_READER * max(2, readers))


class Dispatcher:
    """Decides who gets what, and sends it."""

    def __init__(self, state: RunState, timeout_watchdog: TimeoutWatchdog) -> None:
        self.ledger = state.ledger
        self.payload_kinds = state.plan.payload_kinds
        self.clock = state.clock
        self.limit = state.plan.limit
        self.lease_page = state.lease_page
        #: Told of each grant, because of time limits.
        self.timeout_watchdog = timeout_watchdog
        #: Tasks whose `rate` makes them wait, and until when.
        self.rate_limited_until: dict[str, float] = {}
        #: Items that granted work is expected to put into each queue: one for each item, until it is answered.
        self.expected_items: dict[str, int] = defaultdict(int)
        self._owed: dict[int, tuple[tuple[str, ...], int]] = {}

    def free_room(self, task: TaskState) -> tuple[int, bool]:
        """Return how many items this task may still produce, by the bounds of all its outputs, less what others will.

        Also True if one of its outputs is at its bound: then no task may produce anything for it. What an order holds
        back is as good as there.
        """
        least, full = 1 << 60, False
        held = self._held(task) if task.name in self.ledger.release_orders else None
        for queue in task.bounding_queues:
            room = self.ledger.free_room_in(queue)
            if held:
                room -= held.get(queue, 0)
            full = full or room <= 0
            least = min(least, room - self.expected_items[queue])
        return least, full

    def _held(self, task: TaskState) -> Mapping[str, int]:
        """Return the results for each queue that wait for those before them."""
        return self.ledger.release_orders[task.name].held_results

    def update_elastic_size(self, task: TaskState) -> None:
        """Let its inputs hold what its workers do in a moment, as far as they can go on with it.

        They can as far as its own outputs are as large, or as they have gone on until now: a worker that waits for
        room gets no more than any other. So a run is nowhere farther ahead than by what a queue holds, or by a moment.
        """
        grain = task.chunk_sizer
        if not grain.item_seconds:
            return
        workers, slice_seconds = task.worker_count, grain.time_slice
        most = max_elastic_items(workers) * slice_seconds / TIME_SLICE  # longer slices of a crowd need more
        moment = min(most, _SLICES * slice_seconds * workers / grain.item_seconds)
        onward = 0 if task.rate_limiter else min(map(self.ledger.size_bound, task.bounding_queues), default=1 << 60)
        self.ledger.set_elastic_size(task.name, int(min(moment, max(onward, task.unhindered_items // 2))))

    def _reset_unhindered(self, task: TaskState) -> None:
        """Note that its workers wait for room, or for their turn."""
        if task.unhindered_items:
            task.unhindered_items = 0
            self.update_elastic_size(task)

    def _expect_items(self, queues: tuple[str, ...], items: int) -> None:
        for queue in queues:
            self.expected_items[queue] += items

    def forget_lease(self, lease: int) -> None:
        """Forget a lease that is over: what was expected of it has come, or never will."""
        queues, items = self._owed.pop(lease, ((), 0))
        if self.timeout_watchdog.timed_tasks:
            self.timeout_watchdog.forget_lease(lease)
        if self.lease_page is not None:
            self.lease_page.forget_lease(lease)
        for queue in queues:
            self.expected_items[queue] -= items

    def settle_part(self, lease: int, done: int) -> None:
        """Settle the part of a lease that is over; its worker goes on."""
        queues, items = self._owed[lease]
        self._owed[lease] = (queues, items - done)
        self._expect_items(queues, -done)

    def feed_task(self, task: TaskState, *, flush: bool = False) -> None:
        """Grant what may be granted. `flush`: a batch need not be full."""
        available = 0
        if task.is_source:
            self._credit(task)
        elif available := self.ledger.available_items(task.name):
            if task.is_async:
                available = self._feed_async(task, available, flush=flush)
            else:
                available = self._feed_in_turn(task, available, flush=flush)
            if task.reads_lanes:  # what was granted keeps others back
                available = self.ledger.available_items(task.name)
        if task.free_slots[0] or task.is_source or task.is_async:  # else no worker waits
            reason = self._why_free(task, available)
            if reason != task.wait_reason.current[0]:
                task.wait_reason.set_reason(reason, self.clock.now())

    def _why_free(self, task: TaskState, available: int) -> int:
        """Return why workers that are free now were given nothing."""
        if task.name in self.rate_limited_until:
            return TURN
        if task.is_source:
            return ROOM
        if not available:
            return TURN if self.ledger.queued_items(task.name) else ITEM
        room, full = self.free_room(task)
        if full or room <= 0:
            ordered = (
                task.name in self.ledger.release_orders
                and any(self._held(task).values())
                and all(self.ledger.free_room_in(queue) for queue in task.bounding_queues)
            )
            return TURN if ordered else ROOM
        return ITEM  # what is there is not yet a full batch

    def _feed_in_turn(self, task: TaskState, available: int, *, flush: bool) -> int:
        """Give each worker one lease before any gets two; return how many of the `available` items are left."""
        refused: list[WorkerSlot] = []
        mortal = task.plan.config.lifespan is not None  # then it may be one worker alone that gets no more
        for held in range(task.max_leases_per_worker):
            while available and task.free_slots[held] and (not refused or mortal):
                slot = self._take_free_slot(task, task.free_slots[held])
                if len(slot.leases) != held or not slot.accepts_items:
                    continue
                grant = self._grant_lease(task, slot, available, task.accepting_workers or 1, flush=flush)
                if grant is None:
                    refused.append(slot)
                    continue
                task.update_free_slot(slot)
                task.engine.send(slot.index, grant)
                available -= self.ledger.leases[grant.lease].count
        for slot in refused:
            task.update_free_slot(slot)
        return available

    def _take_free_slot(self, task: TaskState, free: dict[int, WorkerSlot]) -> WorkerSlot:
        """Take out the worker that is given items next: one where the bytes of the first are, if there is one.

        That is never waited for, and only large items that lie in shared memory can be nearer to some than to others.
        """
        near = self._nearest_slot(task, free) if len(free) > 1 else None
        return free.popitem()[1] if near is None else free.pop(near)

    def _nearest_slot(self, task: TaskState, slots: Iterable[int]) -> int | None:
        if (nearest := getattr(task.engine, "nearest_slot", None)) is None:
            return None
        lines = self.ledger.subscriptions_by_task[task.name]
        piece = max(lines, key=lambda line: line.count).next_range(task.name)
        if piece is None or type(piece.chunk.payload) is not SharedPayload:
            return None
        found: int | None = nearest(piece.chunk.payload, slots)
        return found

    def _feed_async(self, task: TaskState, available: int, *, flush: bool) -> int:
        """Grant an item or a batch for each lease, a suspect alone; return how many `available` items are left."""
        ready = [slot for slot in task.slots if slot.accepts_items]
        if len(ready) > 1 and (near := self._nearest_slot(task, [slot.index for slot in ready])) is not None:
            ready.sort(key=lambda slot: slot.index != near)
        grants: dict[int, list[Grant]] = defaultdict(list)
        depths = range(1, task.max_leases_per_worker + 1)
        for slot in (
            slot for depth in depths for slot in ready if len(slot.leases) < depth
        ):  # each once before any twice
            if slot.isolated_lease in slot.leases or (slot.leases and self.ledger.suspect_first(task.name)):
                continue
            grant = self._grant_lease(task, slot, available, len(ready), flush=flush) if available else None
            if grant is None:
                break
            available -= self.ledger.leases[grant.lease].count
            for part in grant.parts:
                if part.crashes:
                    slot.isolated_lease = grant.lease
            grants[slot.index].append(grant)
        for index, (first, *others) in grants.items():
            task.engine.send(index, replace(first, other_grants=tuple(others)) if others else first)
        return available

    def _grant_lease(
        self, task: TaskState, slot: WorkerSlot, available: int, takers: int, *, flush: bool
    ) -> Grant | None:
        """Lease some of the `available` items to a worker; return what to tell it, or None when it gets nothing."""
        items = self._grant_size(task, slot, available, takers)
        if not items:
            return None
        least = together = 1
        if (batch := task.plan.config.batch) is not None:
            together = batch.items
            least = 1 if flush else together
            items = max(batch.items, items // batch.items * batch.items)
            if available >= batch.items:
                items = min(items, available // batch.items * batch.items)
        if task.rate_limiter is not None:
            items = min(items, self._rate_allowance(task, task.rate_limiter, least))
            if not items:
                return None
        lease = self.ledger.grant_lease(
            task.name, slot.index, items, MAX_GRANT_BYTES, least, task.shared_discount, together
        )
        if lease is None:
            return None
        if task.rate_limiter is not None:
            task.rate_limiter.take_tokens(lease.count)
        return self.record_lease(task, slot, lease)

    def record_lease(self, task: TaskState, slot: WorkerSlot, lease: Lease) -> Grant:
        """Note what is expected of a lease; return what to tell its worker."""
        if not slot.leases:
            slot.time_account.enter_state(EXECUTING, self.clock.now())
        slot.leases.append(lease.id)
        if task.is_async:
            lease.granted_at = self.clock.now()
        if self.lease_page is not None:
            self.lease_page.note_lease(lease, slot.index, all_at_once=task.is_async)
        if task.plan.config.timeout is not None:
            self.timeout_watchdog.watch_lease(task, lease.id)
        self._owed[lease.id] = (task.bounding_queues, lease.count)
        for queue in task.bounding_queues:
            self.expected_items[queue] += lease.count
        if len(lease.item_ranges) == 1:
            line, piece = lease.item_ranges[0]
            parts: tuple[GrantedRange, ...] = (self.granted_range(line.queue, piece),)
        else:
            parts = tuple([self.granted_range(line.queue, piece) for line, piece in lease.item_ranges])
        return Grant(lease.id, task.chunk_sizer.time_slice, parts)

    def _grant_size(self, task: TaskState, slot: WorkerSlot, available: int, takers: int) -> int:
        room, full = self.free_room(task)
        if full and not self.ledger.returned_first(task.name):
            self._reset_unhindered(task)
            return 0
        if task.is_async or task.takes_singly:  # it may hold hundreds of leases; or the next item may be a better one
            wanted = 1
        else:
            held = self._held_items(slot)
            wanted = task.chunk_sizer.items_to_grant(available, takers, self.ledger.leased_items[task.name], held)
        lifespan = task.plan.config.lifespan
        if lifespan is not None and lifespan.items is not None:
            wanted = min(wanted, lifespan.items - slot.items - self._held_items(slot))
            if wanted <= 0:
                return 0
        if room <= 0:
            # There is room, but others are expected to fill it: an idle worker may still execute one item, or, of a
            # large queue, as many as are next to nothing there. One of 200 ns would only keep the supervisor busy.
            if slot.leases and not task.is_async:
                return 0
            least_bound = min(map(self.ledger.size_bound, task.bounding_queues))
            return max(1, min(wanted, least_bound // (_IDLE_PARTS * takers)))
        return min(wanted, room)

    def _held_items(self, slot: WorkerSlot) -> int:
        return sum([self.ledger.leases[lease].count for lease in slot.leases]) if slot.leases else 0

    def _rate_allowance(self, task: TaskState, throttle: TokenBucket, least: int) -> int:
        """Return how many items the task's `rate` allows now; when there are none, look again in time."""
        now = self.clock.now()
        allowed = throttle.allowed_items(now, least)
        if not allowed:
            self._reset_unhindered(task)
            self.rate_limited_until[task.name] = throttle.ready_at(now, least)
        return allowed

    def wake_rate_limited(self, now: float) -> list[str]:
        """Return the tasks whose `rate` lets them go on now."""
        if not self.rate_limited_until:
            return []
        woken = [name for name, when in self.rate_limited_until.items() if when <= now]
        for name in woken:
            del self.rate_limited_until[name]
        return woken

    def next_time(self) -> float | None:
        """Return when the first of them may go on."""
        return min(self.rate_limited_until.values()) if self.rate_limited_until else None

    def granted_range(self, queue: str, piece: ItemRange) -> GrantedRange:
        """Return a piece as a worker is given it."""
        tries, payload = (piece.attempts + 1, piece.crashes), piece.chunk.payload
        if isinstance(payload, DeadLetterPayload):
            return GrantedRange(
                piece.chunk.number, payload.index, 1, *tries, payload.kind, payload.payload, payload.text
            )
        return GrantedRange(piece.chunk.number, piece.start, piece.count, *tries, self.payload_kinds[queue], payload)

    def _credit(self, task: TaskState) -> None:
        if not task.output_groups:
            return
        now = self.clock.now()
        for slot in task.slots:
            if slot.phase is Phase.READY:
                self._credit_slot(task, slot)
                state = EXECUTING if slot.credit > slot.received_items else WAITING_FOR_REASON
                if state != slot.time_account.state:
                    slot.time_account.enter_state(state, now)

    def _credit_slot(self, task: TaskState, slot: WorkerSlot) -> None:
        outstanding = slot.credit - slot.received_items
        room, full = self.free_room(task)
        if full:
            return
        share = max(1, room // max(1, len(task.slots)))
        if not task.bounding_queues:  # then nothing else counts what it may still produce
            share = max(0, share - outstanding)
        if room <= 0:
            share = 0 if outstanding else 1
        if self.limit is not None:
            share = min(share, self.limit - _promised_items(task))
        if outstanding >= max(1, share // 2) and not slot.credit_unacknowledged:
            return
        if share and task.rate_limiter is not None:
            share = min(share, self._rate_allowance(task, task.rate_limiter, 1))
            task.rate_limiter.take_tokens(share)
        if not share and not slot.credit_unacknowledged:
            return
        slot.credit += share
        slot.credit_unacknowledged = False
        self._expect_items(task.bounding_queues, share)
        task.engine.send(slot.index, Credit(slot.credit, task.chunk_sizer.time_slice))

    def has_reached_limit(self, task: TaskState) -> bool:
        """Return True if a source has given all that it may."""
        if self.limit is None or not task.is_source or not task.output_groups:
            return False
        return _promised_items(task) == self.limit and all(slot.credit == slot.received_items for slot in task.slots)

    def count_arrived(self, task: TaskState, slot: WorkerSlot, items: int, *, wants_ack: bool) -> None:
        """Count a source's items that have arrived."""
        slot.received_items += items
        slot.credit_unacknowledged = slot.credit_unacknowledged or wants_ack
        for queue in task.bounding_queues:
            self.expected_items[queue] -= items

    def forfeit_credit(self, task: TaskState, slot: WorkerSlot) -> None:
        """Free the credit that a source has not used when it ended."""
        self._expect_items(task.bounding_queues, -max(0, slot.credit - slot.received_items))
        slot.credit = slot.received_items


def _promised_items(task: TaskState) -> int:
    """Return how many items a source's workers have given, and may give by their credit."""
    return sum(slot.history.given_items + slot.credit for slot in task.slots)
