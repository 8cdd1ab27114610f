"""The order in which an ordered task's results leave: a chain of entries, released from its head.

    head ▶ [done] ▶ [pending] ▶ [done] ▶ [pending] ◀ tail
             │ leaves at once      └ waits for the entries before it

Every lease of an ordered task has an entry, made when its items are granted for the first time. When a lease is
only partly done, what remains gets entries right behind it, so that it keeps its place however late it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.structs import dataclass, field

if TYPE_CHECKING:
    from runner.ledger.subscriptions import Chunk


@dataclass(slots=True, eq=False)
class Entry:
    """One place in the order, with the results that wait in it: (queue, chunk) pairs."""

    of: Sequence
    outputs: list[tuple[str, Chunk]] = field(default_factory=list)
    settled: bool = False
    after: Entry | None = None

    def behind(self) -> Entry:
        """A new entry right behind this one."""
        entry = Entry(self.of, after=self.after)
        self.after = entry
        if self.of.tail is self:
            self.of.tail = entry
        return entry


@dataclass(slots=True)
class Sequence:
    """The entries of one ordered task that have not left yet, and how many results for each queue they hold back."""

    head: Entry | None = None
    tail: Entry | None = None
    held: dict[str, int] = field(default_factory=dict)

    def append(self) -> Entry:
        """A new entry at the end."""
        entry = Entry(self)
        if self.tail is None:
            self.head = entry
        else:
            self.tail.after = entry
        self.tail = entry
        return entry

    def settle(self, entry: Entry, outputs: list[tuple[str, Chunk]]) -> list[tuple[str, Chunk]]:
        """The entry has its results; return whatever may leave now, in order."""
        entry.outputs.extend(outputs)
        entry.settled = True
        for queue, chunk in outputs:
            self.held[queue] = self.held.get(queue, 0) + chunk.count
        leaving: list[tuple[str, Chunk]] = []
        while self.head is not None and self.head.settled:
            leaving.extend(self.head.outputs)
            self.head = self.head.after
        if self.head is None:
            self.tail = None
        for queue, chunk in leaving:
            self.held[queue] -= chunk.count
        return leaving

    def drain(self) -> list[tuple[str, Chunk]]:
        """Everything that is still held back, in order, although what was before it never came."""
        leaving: list[tuple[str, Chunk]] = []
        while self.head is not None:
            leaving.extend(self.head.outputs)
            self.head = self.head.after
        self.tail = None
        self.held.clear()
        return leaving
