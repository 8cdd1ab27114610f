"""Chunks: items on their way, as the ledger knows them; and the order in which an ordered task's results leave.

That is a chain of entries, released from its head:

    head ▶ [done] ▶ [pending] ▶ [done] ▶ [pending] ◀ tail
             │ leaves at once      └ waits for the entries before it

Every lease of an ordered task has an entry, made when its items are granted for the first time. When a lease is
only partly done, what remains gets entries right behind it, so that it keeps its place however late it comes.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from runner.structs import dataclass, field


class Chunk(Struct, frozen=True):
    """Items that were sent together. `payload` is opaque; `size` is its length in bytes.

    `shared_bytes` of these bytes are in shared memory: they count for a queue's bound, and next to nothing for how
    many are moved at once.
    `number` is unique in a run and never changes, so `number.index` names an item for good. `origin` is the number of
    the chunk whose payload a dead letter shares. Of a queue with `order = "priority"` all its items have the `rank`;
    of one with lanes they are in the `bucket`.
    """

    number: int
    payload: Any
    count: int
    size: int
    shared_bytes: int = 0
    origin: int = 0
    rank: float = 0.0
    bucket: int = 0


@dataclass(slots=True, eq=False)
class OrderEntry:
    """One place in the order, with the results that wait in it: (queue, chunk) pairs.

    `acked_ranges`: what is done, as (subscription, item range) pairs; a journal is told when their results leave.
    """

    release_order: ReleaseOrder
    outputs: list[tuple[str, Chunk]] = field(default_factory=list)
    acked_ranges: list[tuple[Any, Any]] = field(default_factory=list)
    settled: bool = False
    next_entry: OrderEntry | None = None

    def insert_behind(self) -> OrderEntry:
        """Return a new entry right behind this one."""
        entry = OrderEntry(self.release_order, next_entry=self.next_entry)
        self.next_entry = entry
        if self.release_order.tail is self:
            self.release_order.tail = entry
        return entry


@dataclass(slots=True)
class ReleaseOrder:
    """The entries of one ordered task that have not left yet, and how many results for each queue they hold back."""

    head: OrderEntry | None = None
    tail: OrderEntry | None = None
    held_results: dict[str, int] = field(default_factory=dict)
    #: What was acked in entries that have left since it was taken.
    left_ranges: list[tuple[Any, Any]] = field(default_factory=list)

    def append_entry(self) -> OrderEntry:
        """Return a new entry at the end."""
        entry = OrderEntry(self)
        if self.tail is None:
            self.head = entry
        else:
            self.tail.next_entry = entry
        self.tail = entry
        return entry

    def settle_entry(self, entry: OrderEntry, outputs: list[tuple[str, Chunk]]) -> list[tuple[str, Chunk]]:
        """Take the results of an entry; return all that may leave now, in order."""
        entry.outputs.extend(outputs)
        entry.settled = True
        for queue, chunk in outputs:
            self.held_results[queue] = self.held_results.get(queue, 0) + chunk.count
        return self.release_outputs()

    def release_outputs(self, *, settled_only: bool = True) -> list[tuple[str, Chunk]]:
        """Return what may leave, in order; with `settled_only=False` all, although what was before it never came."""
        leaving: list[tuple[str, Chunk]] = []
        while self.head is not None and (self.head.settled or not settled_only):
            leaving.extend(self.head.outputs)
            self.left_ranges.extend(self.head.acked_ranges)
            self.head = self.head.next_entry
        if self.head is None:
            self.tail = None
        for queue, chunk in leaving:
            self.held_results[queue] -= chunk.count
        return leaving

    def take_left_ranges(self) -> list[tuple[Any, Any]]:
        """Return what was acked in the entries that have left since the last time."""
        left, self.left_ranges = self.left_ranges, []
        return left
