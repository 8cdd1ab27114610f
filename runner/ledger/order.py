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
    from runner.ledger.lines import Chunk


@dataclass(slots=True, eq=False)
class Entry:
    """One place in the order, with the results that wait in it: (queue, chunk) pairs."""

    outputs: list[tuple[str, Chunk]] = field(default_factory=list)
    settled: bool = False
    after: Entry | None = None


@dataclass(slots=True)
class Sequence:
    """The entries of one ordered task that have not left yet, and how many results they hold back."""

    head: Entry | None = None
    tail: Entry | None = None
    held: int = 0

    def append(self) -> Entry:
        """A new entry at the end."""
        entry = Entry()
        if self.tail is None:
            self.head = entry
        else:
            self.tail.after = entry
        self.tail = entry
        return entry

    def insert(self, before: Entry) -> Entry:
        """A new entry right behind `before`."""
        entry = Entry(after=before.after)
        before.after = entry
        if self.tail is before:
            self.tail = entry
        return entry

    def settle(self, entry: Entry, outputs: list[tuple[str, Chunk]]) -> list[tuple[str, Chunk]]:
        """The entry has its results; return whatever may leave now, in order."""
        entry.outputs.extend(outputs)
        entry.settled = True
        self.held += sum(chunk.count for _, chunk in outputs)
        leaving: list[tuple[str, Chunk]] = []
        while self.head is not None and self.head.settled:
            leaving.extend(self.head.outputs)
            self.head = self.head.after
        if self.head is None:
            self.tail = None
        self.held -= sum(chunk.count for _, chunk in leaving)
        return leaving

    def drain(self) -> list[tuple[str, Chunk]]:
        """Everything that is still held back, in order, although what was before it never came."""
        leaving: list[tuple[str, Chunk]] = []
        while self.head is not None:
            leaving.extend(self.head.outputs)
            self.head = self.head.after
        self.tail = None
        self.held = 0
        return leaving
