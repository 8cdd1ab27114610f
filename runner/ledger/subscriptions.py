"""Subscriptions: where the items of a queue wait for one group of its readers, as ranges of chunks."""

from __future__ import annotations

import heapq
from bisect import bisect
from collections import deque
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from runner.ledger.balance import ItemCounts
from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from runner.ledger.chunks import Chunk, OrderEntry
    from runner.model import Full, Order

#: The place of a piece in its line, by the order of its queue: the smallest is next.
_POSITIONS: dict[str, Callable[[ItemRange], tuple[float, ...]]] = {
    "fifo": attrgetter("ticket", "start"),
    "lifo": lambda piece: (-piece.ticket, -piece.start),
    "priority": attrgetter("chunk.rank", "ticket", "start"),
}
#: The place of a piece by its arrival.
ARRIVAL = _POSITIONS["fifo"]


def queue_of_line(name: str) -> str:
    """Return the queue of a subscription's name.

    >>> queue_of_line("bread"), queue_of_line("bread->eat")
    ('bread', 'bread')
    """
    return name.partition("->")[0]


class ItemRange(Struct, frozen=True):
    """Some neighbouring items of a chunk: the same bytes with an offset and a count.

    A piece with `attempts` (exceptions) or `crashes` (deaths of workers) is always a single item, or a batch
    that failed as a whole; `granted_alone`: nothing else may be granted with it. `order_entry` is its place in the
    order of an ordered task, once it has been granted; `ticket` is its chunk's place in the line. In a queue that drops
    items, one that `came_back` is not among them.
    """

    chunk: Chunk
    start: int
    count: int
    attempts: int = 0
    crashes: int = 0
    granted_alone: bool = False
    order_entry: OrderEntry | None = None
    ticket: int = 0
    came_back: bool = False

    @property
    def size(self) -> int:
        """Return this piece's share of the chunk's bytes; the shares of all pieces add up to the whole exactly."""
        chunk = self.chunk
        if self.count == chunk.count:
            return chunk.size
        return chunk.size * (self.start + self.count) // chunk.count - chunk.size * self.start // chunk.count

    def weighted_bytes(self, shared_discount: int) -> int:
        """Return what counts against the bytes that are moved at once: those in shared memory weigh less."""
        if not self.chunk.shared_bytes:
            return self.chunk.size if self.count == self.chunk.count else self.size
        shared_bytes = self.chunk.shared_bytes * self.count // self.chunk.count
        return self.size - shared_bytes + shared_bytes // shared_discount

    @property
    def item_id(self) -> str:
        """Return the name of its first item, the same however often it is given."""
        return f"{self.chunk.number}.{self.start}"

    @property
    def is_marked(self) -> bool:
        """Return True if something has happened to it that its neighbours must not share."""
        return self.granted_alone or self.attempts > 0 or self.crashes > 0

    @property
    def must_be_alone(self) -> bool:
        """Return True if it must be a lease's only piece: it is marked, or has its own place in an order."""
        return self.order_entry is not None or self.granted_alone or self.attempts > 0 or self.crashes > 0

    def sub_range(self, start: int, count: int) -> ItemRange:
        """Return the `count` items from `start` (counted from this piece's own start)."""
        return replace(self, start=self.start + start, count=count)


@dataclass(slots=True)
class Subscription:
    """The items of one queue that wait for one group of readers.

    A queue that its readers share has one line, a copied one a line for each reader. What is given back goes where it
    was, whatever was given back before it. If one of the readers is ordered the line `keeps` it for the task that had
    it, as long as that reads: it has its place in the order of that task, and is too late for that of another.

    A line whose queue is `full` to "drop-new" or "drop-old" takes whatever comes in, and drops what is too much: of
    what comes in, or of what has waited longest. Its bounds count what waits; what comes back is never dropped.
    """

    #: Its items are in lanes (`lanes.LanedSubscription`).
    has_lanes: ClassVar[bool] = False
    queue: str
    readers: tuple[str, ...]
    size: int = 1000
    bytes: int = 64 * 1024 * 1024
    is_copy: bool = False
    carries_dead_letters: bool = False
    #: `size` is its bound, `min_size`, while its readers are slow, or not known yet.
    is_elastic: bool = False
    keeps_returned: bool = False
    full: Full = "wait"
    order: Order = "fifo"
    name: str = field(init=False)
    min_size: int = field(init=False)
    counts: ItemCounts = field(default_factory=ItemCounts)
    count: int = 0
    held_bytes: int = 0
    leased_items: int = 0
    ready_ranges: deque[ItemRange] = field(default_factory=deque)
    sleeping_ranges: list[tuple[float, int, int, ItemRange, str]] = field(default_factory=list)
    #: What is kept, by task. Like `ready` by tickets, and no task has none.
    kept_for_task: dict[str, deque[ItemRange]] = field(default_factory=dict)
    #: What has come in, and is not on disk yet, with the groups of the journal for which it waits.
    unkept_ranges: deque[tuple[int, ItemRange]] = field(default_factory=deque)
    #: The readers that read no more.
    finished_readers: set[str] = field(default_factory=set)
    sleeping_items: int = 0
    last_ticket: int = 0
    abandoned: bool = False
    _position: Callable[[ItemRange], tuple[float, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.name = f"{self.queue}->{self.readers[0]}" if self.is_copy else self.queue
        self.min_size = self.size
        self._position = _POSITIONS[self.order]

    def available_items(self, task: str) -> int:
        """Return how many items may be granted to this task now."""
        return self.count - self.sleeping_items - self.items_kept_for_others(task)

    def items_kept_for_others(self, task: str) -> int:
        """Return how many items are kept for other tasks than this one."""
        return sum(piece.count for other, kept in self.kept_for_task.items() if other != task for piece in kept)

    def free_room(self) -> int:
        """Return how many items may still come in; 0 when either bound has been reached."""
        if self.held_bytes >= self.bytes:
            return 0
        return max(0, self.size - self.count)

    def admit_chunk(self, chunk: Chunk, group: int | None = None) -> list[ItemRange]:
        """Take a chunk in, and return what is dropped for it; asleep if it must be on disk first, with a journal group.

        >>> from runner.ledger.chunks import Chunk
        >>> line = Subscription("q", ("eat",), size=2, full="drop-old")
        >>> [(piece.item_id, piece.count) for number in (1, 2) for piece in line.admit_chunk(Chunk(number, b"", 2, 2))]
        [('1.0', 2)]
        """
        self.counts.put += chunk.count
        if self.abandoned:
            self.counts.left += chunk.count
            return []
        self.last_ticket += 1
        piece, dropped = ItemRange(chunk, 0, chunk.count, ticket=self.last_ticket), []
        if self.full == "drop-new" and (room := self.free_room()) < chunk.count:
            dropped = [piece.sub_range(room, chunk.count - room)]
            if not room:
                self.counts.dropped += chunk.count
                return dropped
            piece = piece.sub_range(0, room)
        self.count += piece.count
        self.held_bytes += piece.size
        if group is not None:
            self.sleeping_items += piece.count
            self.unkept_ranges.append((group, piece))
        elif self.order == "fifo":
            self.ready_ranges.append(piece)
        else:
            self._insert(self.ready_ranges, piece)
        if self.full == "drop-old":
            dropped = self._drop_oldest()
        for each in dropped:
            self.counts.dropped += each.count
        return dropped

    def _drop_oldest(self) -> list[ItemRange]:
        """Take out what has waited longest, as far as the bounds are exceeded, and return it; one item stays."""
        dropped: list[ItemRange] = []
        while (excess := max(self.count - self.size, self._excess_by_bytes())) > 0:
            group, at = 0, self._oldest_index()
            if at is not None:
                piece = self.ready_ranges[at]
                del self.ready_ranges[at]
            elif self.unkept_ranges:
                group, piece = self.unkept_ranges.popleft()
            else:  # all that waits came back
                break
            if excess < piece.count:
                left, piece = piece.sub_range(excess, piece.count - excess), piece.sub_range(0, excess)
                if at is not None:
                    self.ready_ranges.insert(at, left)
                else:
                    self.unkept_ranges.appendleft((group, left))
            self.sleeping_items -= piece.count if at is None else 0
            self.count -= piece.count
            self.held_bytes -= piece.size
            dropped.append(piece)
        return dropped

    def _excess_by_bytes(self) -> int:
        """Return about how many items are too much by their bytes."""
        if self.held_bytes <= self.bytes or self.count <= 1:
            return 0
        return min(self.count - 1, -(-(self.held_bytes - self.bytes) * self.count // self.held_bytes))

    def _oldest_index(self) -> int | None:
        """Return where in `ready_ranges` that is which has waited longest and never came back."""
        if self.order == "priority":
            found = ((ARRIVAL(each), at) for at, each in enumerate(self.ready_ranges) if not each.came_back)
            return min(found, default=(None, None))[1]
        places = range(len(self.ready_ranges)) if self.order == "fifo" else reversed(range(len(self.ready_ranges)))
        return next((at for at in places if not self.ready_ranges[at].came_back), None)

    def _insert(self, pieces: deque[ItemRange], piece: ItemRange) -> None:
        pieces.insert(bisect(pieces, self._position(piece), key=self._position), piece)

    def wake_kept(self, upto: int) -> bool:
        """Make available what has come with the groups up to this one; return True if there was any."""
        if not self.unkept_ranges or self.unkept_ranges[0][0] > upto:
            return False
        while self.unkept_ranges and self.unkept_ranges[0][0] <= upto:
            _, piece = self.unkept_ranges.popleft()
            self.sleeping_items -= piece.count
            self._insert(self.ready_ranges, piece)
        return True

    def restore_ranges(self, pieces: Iterable[ItemRange]) -> None:
        """Take in what an earlier run left of one chunk, and counted."""
        self.last_ticket += 1
        for piece in pieces:
            self.count += piece.count
            self.held_bytes += piece.size
            came_back = piece.attempts > 0 or piece.crashes > 0
            self._insert(self.ready_ranges, replace(piece, ticket=self.last_ticket, came_back=came_back))

    def oldest_ticket(self) -> int | None:
        """Return the ticket of the chunk that came first of those of which something waits; None: nothing does."""
        waiting = [self._first_ticket(pieces) for pieces in (self.ready_ranges, *self.kept_for_task.values()) if pieces]
        return min([*waiting, *self._asleep_tickets()], default=None)

    def _first_ticket(self, pieces: deque[ItemRange]) -> int:
        if self.order == "priority":
            return min(piece.ticket for piece in pieces)
        return pieces[0 if self.order == "fifo" else -1].ticket

    def _asleep_tickets(self) -> list[int]:
        """Return the tickets of what sleeps before a retry, and of what has come first of that which is not on disk."""
        unkept = [self.unkept_ranges[0][1].ticket] if self.unkept_ranges else []
        return [*unkept, *(ticket for _, ticket, *_ in self.sleeping_ranges)]

    def has_crashed(self, crashes: int) -> bool:
        """Return True if a piece that waits has so many crashes."""
        asleep = (piece for *_, piece, _ in self.sleeping_ranges)
        waiting = chain(self.ready_ranges, asleep, *self.kept_for_task.values())
        return any(piece.crashes >= crashes for piece in waiting)

    def take_crashed(self, crashes: int) -> list[ItemRange]:
        """Hand out the pieces that have so many crashes; each is a single item."""
        taken = [piece for piece in self.ready_ranges if piece.crashes >= crashes]
        self.ready_ranges = deque(piece for piece in self.ready_ranges if piece.crashes < crashes)
        self.count -= len(taken)
        self.held_bytes -= sum(piece.size for piece in taken)
        self.leased_items += len(taken)
        return taken

    def end_items(self, piece: ItemRange) -> None:
        """Note that granted items have ended."""
        self.leased_items -= piece.count

    def take_back(self, piece: ItemRange, task: str) -> None:
        """Return items that were done, because what they made has not left."""
        self.counts.done -= piece.count
        self.leased_items += piece.count
        self.give_back(replace(piece, order_entry=None), task)

    def remove_reader(self, task: str, over: Container[str]) -> None:
        """Remove a task that reads no more: what was kept for it is for the others.

        If all readers are `over`, everything is left: what waits then, and what will still come, is only counted, and
        its memory is freed.
        """
        self.finished_readers.add(task)
        if self.abandoned:
            return
        if all(reader in over for reader in self.readers):
            self.abandoned = True
            self.counts.left += self.count
            self.count = self.held_bytes = self.sleeping_items = 0
            self.ready_ranges.clear()
            self.sleeping_ranges.clear()
            self.unkept_ranges.clear()
            self.kept_for_task.clear()
        for piece in self.kept_for_task.pop(task, ()):
            self._requeue(piece, task)

    def give_back(self, piece: ItemRange, task: str, until: float | None = None) -> None:
        """Return items that were granted to a task: they go where they were, at once or when `until` has come."""
        self.leased_items -= piece.count
        self.count += piece.count
        self.held_bytes += piece.size
        if self.full == "drop-old":
            piece = replace(piece, came_back=True)
        if until is None:
            self._requeue(piece, task)
        else:
            self.sleeping_items += piece.count
            heapq.heappush(self.sleeping_ranges, (until, piece.ticket, piece.start, piece, task))

    def _requeue(self, piece: ItemRange, task: str) -> None:
        """Put items where they were before they were granted to a task."""
        pieces = self.ready_ranges
        if piece.order_entry is not None and task in self.finished_readers:
            piece = replace(piece, order_entry=None)
        if self.keeps_returned and task not in self.finished_readers:
            pieces = self.kept_for_task.setdefault(task, deque())
        self._insert(pieces, piece)

    def wake_sleepers(self, now: float) -> None:
        """Make the sleepers whose time has come available."""
        while self.sleeping_ranges and self.sleeping_ranges[0][0] <= now:
            *_, piece, task = heapq.heappop(self.sleeping_ranges)
            self.sleeping_items -= piece.count
            self._requeue(piece, task)

    def take_ranges(
        self,
        task: str,
        most: int,
        most_bytes: int,
        shared_discount: int = 1,
        together: int = 1,
        *,
        joining: bool = False,
    ) -> list[ItemRange]:
        """Hand out pieces, together at most `most` items and `most_bytes`; but `together` items whatever their bytes.

        A marked piece comes alone, and so does one that has its place in an order already; `joining` says that
        the lease holds something else, so that such a piece must wait for its own. A batch that failed as a whole is
        parted for a task that takes fewer items at once.
        """
        if most == 1 and together >= 1 and (one := self._take_one(task)) is not None:
            return [one]
        taken_ranges: list[ItemRange] = []
        taken = 0
        while most > 0 and (piece := self.next_range(task)) is not None:
            single, weight = piece.must_be_alone, piece.weighted_bytes(shared_discount)
            least = together - taken
            if (single and (taken or joining)) or (least <= 0 and weight > most_bytes * piece.count):
                break
            keep = min(piece.count, most)
            if not piece.is_marked and (keep < piece.count or weight > most_bytes):  # as many as fit, or `least`
                keep = min(keep, max(1, least, most_bytes * piece.count // max(1, weight)))
            if keep < piece.count:
                piece = self._split_next(task, piece, keep)
                weight = piece.weighted_bytes(shared_discount)
            self._leave_next(task, piece)
            taken += piece.count
            most -= piece.count
            most_bytes -= weight
            taken_ranges.append(piece)
            if single or (most_bytes <= 0 and taken >= together):
                break
        return taken_ranges

    def _take_one(self, task: str) -> ItemRange | None:
        """Hand out one item, as it leaves whatever its bytes; None: there is none, or the next piece is not plain.

        # bench async in a thread, processor time of the command: without it 1.05, with it 1
        """
        pieces = self.kept_for_task.get(task) or self.ready_ranges
        if not pieces or (piece := pieces[0]).must_be_alone or self.order != "fifo" or piece.came_back:
            return None
        if piece.count == 1:
            self._leave_next(task, piece)
            return piece
        one = ItemRange(piece.chunk, piece.start, 1, ticket=piece.ticket)
        pieces[0] = ItemRange(piece.chunk, piece.start + 1, piece.count - 1, ticket=piece.ticket)
        self.count -= 1
        self.held_bytes -= one.size
        self.leased_items += 1
        return one

    def next_range(self, task: str) -> ItemRange | None:
        """Return what would be handed out to a task next."""
        pieces = self.kept_for_task.get(task) or self.ready_ranges
        return pieces[0] if pieces else None

    def _split_next(self, task: str, piece: ItemRange, keep: int) -> ItemRange:
        """Part the next piece, so that only `keep` items of it are next; in an order each part has its place."""
        pieces = self.kept_for_task.get(task) or self.ready_ranges
        taken, left = piece.sub_range(0, keep), piece.sub_range(keep, piece.count - keep)
        if self.order == "lifo":
            left, taken = piece.sub_range(0, piece.count - keep), piece.sub_range(piece.count - keep, keep)
        if piece.order_entry is not None:
            left = replace(left, order_entry=piece.order_entry.insert_behind())
        pieces[0] = left
        pieces.appendleft(taken)
        return taken

    def _leave_next(self, task: str, piece: ItemRange) -> None:
        """Take out the next piece, which is granted."""
        pieces = self.kept_for_task.get(task) or self.ready_ranges
        pieces.popleft()
        if not pieces:
            self.kept_for_task.pop(task, None)
        self.count -= piece.count
        self.held_bytes -= piece.size
        self.leased_items += piece.count
