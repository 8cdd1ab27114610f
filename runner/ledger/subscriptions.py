"""Chunks, pieces of chunks, and the lines in which they wait."""

from __future__ import annotations

import heapq
from bisect import bisect
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from runner.ledger.balance import Tally
from runner.structs import dataclass, field, message

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from runner.ledger.ordering import Entry

Order = Literal["fifo", "lifo", "priority"]
Full = Literal["wait", "drop-new", "drop-old"]


@message(frozen=True, slots=True)
class Chunk:
    """Items that were sent together. `payload` is opaque; `size` is its length in bytes.

    `lying` of these bytes are in shared memory: they count for a queue's bound, and next to nothing where it is asked
    how many to move at once.
    `number` is unique in a run and never changes, so `number.index` names an item for good.
    `priorities`, one for each item, is there only on its way into a priority queue.
    """

    number: int
    payload: Any
    count: int
    size: int
    priorities: tuple[float, ...] = ()
    lying: int = 0


@message(frozen=True, slots=True)
class Piece:
    """Some neighbouring items of a chunk: the same bytes with an offset and a count.

    A piece with `attempts` (exceptions) or `crashes` (deaths of workers) is always a single item, or a batch
    that failed as a whole; `alone` says that nothing else may be granted with it. `entry` is its place in the
    order of an ordered task, once it has been granted; `ticket` is its chunk's place in the line.
    """

    chunk: Chunk
    start: int
    count: int
    attempts: int = 0
    crashes: int = 0
    alone: bool = False
    entry: Entry | None = None
    ticket: int = 0

    @property
    def size(self) -> int:
        """This piece's share of the chunk's bytes; the shares of all pieces add up to the whole exactly."""
        chunk = self.chunk
        if self.count == chunk.count:
            return chunk.size
        return chunk.size * (self.start + self.count) // chunk.count - chunk.size * self.start // chunk.count

    def weight(self, light: int) -> int:
        """What counts against the bytes that are moved at once: those in shared memory weigh less."""
        if not self.chunk.lying:
            return self.size
        lying = self.chunk.lying * self.count // self.chunk.count
        return self.size - lying + lying // light

    @property
    def item_id(self) -> str:
        """The name of its first item, the same however often it is given."""
        return f"{self.chunk.number}.{self.start}"

    @property
    def marked(self) -> bool:
        """Whether something has happened to it that its neighbours must not share."""
        return self.alone or self.attempts > 0 or self.crashes > 0

    @property
    def single(self) -> bool:
        """Whether it must be a lease's only piece: it is marked, or has its own place in an order."""
        return self.entry is not None or self.marked

    def part(self, start: int, count: int, **changes: Any) -> Piece:
        """The `count` items from `start` (counted from this piece's own start)."""
        if changes:
            return replace(self, start=self.start + start, count=count, **changes)
        return Piece(
            self.chunk, self.start + start, count, self.attempts, self.crashes, self.alone, self.entry, self.ticket
        )


@dataclass(slots=True)
class Line:
    """The items of one queue that wait for one group of readers.

    A queue that its readers share has one line, a copied one a line for each reader. What is given back goes where it
    was, whatever was given back before it. If one of the readers is ordered the line `keeps` it for the task that had
    it, as long as that reads: it has its place in the order of that task, and is too late for that of another.
    """

    name: str
    queue: str
    readers: tuple[str, ...]
    size: int
    bytes: int
    full: Full = "wait"
    order: Order = "fifo"
    keeps: bool = False
    #: The bound of an elastic line while its readers are slow, or not known yet.
    least_size: int | None = None
    tally: Tally = field(default_factory=Tally)
    count: int = 0
    held: int = 0
    leased: int = 0
    ready: deque[Piece] = field(default_factory=deque)
    sleeping: list[tuple[float, int, int, Piece, str]] = field(default_factory=list)
    #: What is kept, by task. Like `ready` by tickets, and no task has none.
    kept: dict[str, deque[Piece]] = field(default_factory=dict)
    #: The readers that read no more.
    over: set[str] = field(default_factory=set)
    heap: list[tuple[float, int, int, Piece]] = field(default_factory=list)
    asleep: int = 0
    ticket: int = 0
    abandoned: bool = False

    def available(self, task: str) -> int:
        """Items that may be granted to this task now."""
        available = self.count - self.asleep
        if self.kept:
            available -= sum(piece.count for other, kept in self.kept.items() if other != task for piece in kept)
        return available

    def room(self) -> int:
        """Items that may still come in; 0 when either bound has been reached."""
        if self.held >= self.bytes:
            return 0
        return max(0, self.size - self.count)

    def admit(self, chunk: Chunk) -> int:
        """Take a chunk in; return how many items were dropped, because the file says so, for want of room."""
        self.tally.put += chunk.count
        if self.abandoned:
            self.tally.left += chunk.count
            return 0
        self.ticket += 1
        piece = Piece(chunk, 0, chunk.count, ticket=self.ticket)
        dropped = 0
        if self.full == "drop-new":
            keep = min(chunk.count, self.room())
            dropped = chunk.count - keep
            if not keep:
                self.tally.dropped += dropped
                return dropped
            piece = piece.part(0, keep)
        self._enter(piece)
        if self.full == "drop-old":
            dropped = self._shed()
        self.tally.dropped += dropped
        return dropped

    def _enter(self, piece: Piece) -> None:
        self.count += piece.count
        self.held += piece.size
        if self.order == "priority":
            self._push(piece)
        else:
            self.ready.append(piece)

    def _push(self, piece: Piece) -> None:
        for index in range(piece.count):
            each = piece.part(index, 1)
            rank = piece.chunk.priorities[each.start] if piece.chunk.priorities else 0.0
            heapq.heappush(self.heap, (rank, each.ticket, each.start, each))

    def _shed(self) -> int:
        """Drop the oldest until the bounds hold again; the newest item always stays."""
        dropped = 0
        while self.ready and self.count > 1 and (self.count > self.size or self.held > self.bytes):
            piece = self.ready.popleft()
            excess = min(piece.count, max(1, self.count - self.size), self.count - 1)
            if excess < piece.count:
                self.ready.appendleft(piece.part(excess, piece.count - excess))
            self._leave(piece.part(0, excess))
            dropped += excess
        return dropped

    def _leave(self, piece: Piece) -> None:
        self.count -= piece.count
        self.held -= piece.size

    def leave(self, task: str, over: Container[str]) -> None:
        """The task reads no more: what was kept for it is for the others. If all are `over`, everything is left.

        What waits then, and what will still come, is only counted: its memory is freed.
        """
        self.over.add(task)
        if self.abandoned:
            return
        if all(reader in over for reader in self.readers):
            self.abandoned = True
            self.tally.left += self.count
            self.count = self.held = self.asleep = 0
            self.ready.clear()
            self.heap.clear()
            self.sleeping.clear()
            self.kept.clear()
        for piece in self.kept.pop(task, ()):
            self._requeue(piece, task)

    def give_back(self, piece: Piece, task: str) -> None:
        """Return items that were granted to a task: they go where they were."""
        self._return(piece)
        self._requeue(piece, task)

    def sleep(self, piece: Piece, until: float, task: str) -> None:
        """Return granted items that must not be granted before `until`."""
        self._return(piece)
        self.asleep += piece.count
        heapq.heappush(self.sleeping, (until, piece.ticket, piece.start, piece, task))

    def _return(self, piece: Piece) -> None:
        self.leased -= piece.count
        self.count += piece.count
        self.held += piece.size

    def _requeue(self, piece: Piece, task: str) -> None:
        """Put items where they were before they were granted to a task."""
        pieces = self.ready
        if piece.entry is not None and task in self.over:
            piece = replace(piece, entry=None)
        if self.keeps and task not in self.over:
            pieces = self.kept.setdefault(task, deque())
        elif self.order == "priority":
            self._push(piece)
            return
        pieces.insert(bisect(pieces, _place(piece), key=_place), piece)

    def wake(self, now: float) -> int:
        """Make the sleepers whose time has come available; return how many items that were."""
        woken = 0
        while self.sleeping and self.sleeping[0][0] <= now:
            *_, piece, task = heapq.heappop(self.sleeping)
            self.asleep -= piece.count
            self._requeue(piece, task)
            woken += piece.count
        return woken

    def take(
        self, task: str, most: int, most_bytes: int, light: int = 1, together: int = 1, *, joining: bool = False
    ) -> Iterator[Piece]:
        """Hand out pieces, together at most `most` items and `most_bytes`; but `together` items whatever their bytes.

        A marked piece comes alone, and so does one that has its place in an order already; `joining` says that
        the lease holds something else, so that such a piece must wait for its own. A batch that failed as a whole is
        parted for a task that takes fewer items at once.
        """
        taken = 0
        while most > 0 and (piece := self.next(task)) is not None:
            single, weight = piece.single, piece.weight(light)
            least = together - taken
            if (single and (taken or joining)) or (least <= 0 and weight > most_bytes * piece.count):
                return
            if piece.marked:
                keep = min(piece.count, most)
            else:
                keep = 1 if self.order == "lifo" else _how_many(piece, weight, most, most_bytes, max(1, least))
            if keep < piece.count:
                piece = self._cut(task, piece, keep)
                weight = piece.weight(light)
            self._leave_next(task, piece)
            taken += piece.count
            most -= piece.count
            most_bytes -= weight
            yield piece
            if single or (most_bytes <= 0 and taken >= together):
                return

    def next(self, task: str) -> Piece | None:
        """What would be handed out to a task next."""
        pieces = self.kept.get(task) or self.ready
        if pieces:
            return pieces[-1 if self.order == "lifo" else 0]
        return self.heap[0][-1] if self.heap else None

    def _cut(self, task: str, piece: Piece, keep: int) -> Piece:
        """Part the next piece, so that only `keep` items of it are next; in an order each part has its place."""
        pieces, rest = self.kept.get(task) or self.ready, piece.count - keep
        lifo = self.order == "lifo"
        taken, left = (
            (piece.part(rest, keep), piece.part(0, rest)) if lifo else (piece.part(0, keep), piece.part(keep, rest))
        )
        if piece.entry is not None:
            left = replace(left, entry=piece.entry.behind())
        if lifo:
            pieces[-1] = left
            pieces.append(taken)
        else:
            pieces[0] = left
            pieces.appendleft(taken)
        return taken

    def _leave_next(self, task: str, piece: Piece) -> None:
        """The next piece is granted."""
        pieces = self.kept.get(task) or self.ready
        if not pieces:
            heapq.heappop(self.heap)
        elif self.order == "lifo":
            pieces.pop()
        else:
            pieces.popleft()
        if not pieces:
            self.kept.pop(task, None)
        self._leave(piece)
        self.leased += piece.count

    def next_waking(self) -> float | None:
        """When the first sleeper wakes."""
        return self.sleeping[0][0] if self.sleeping else None


def _place(piece: Piece) -> tuple[int, int]:
    """Where a piece is in its line."""
    return piece.ticket, piece.start


def _how_many(piece: Piece, weight: int, most: int, most_bytes: int, least: int) -> int:
    """Items of a piece that fit; at least `least` of them, whatever their bytes."""
    if piece.count <= most and weight <= most_bytes:
        return piece.count
    return min(piece.count, most, max(least, most_bytes * piece.count // max(1, weight)))
