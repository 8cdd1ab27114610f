"""Queues with lanes: items of one lane keep their order, and are never in the hands of two workers at the same time.

    put ──▶ bucket 5: ▪▪▪     free, in turn ──take──▶ lease
            bucket 6: ▪▪▪▪    busy: something of it is leased, or sleeps before a retry
            bucket 9:         free, and empty

The ledger sees no item's lane: the worker that makes items hashes the lane of each, and a chunk holds items of one
bucket. Two lanes of one bucket only wait for each other. A retry, or the rest of a lease, comes back to its place in
its bucket, and the other buckets go on.

A chunk's bucket is the first bits of a hash behind a one: 0b1101 is the sixth of eight, and of four it is 0b110. So
chunks that were made for more buckets fit into a line that has fewer.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace

from runner.ledger.subscriptions import ARRIVAL, ItemRange, Subscription
from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from runner.ledger.chunks import Chunk

#: The bucket of a chunk that was made for a queue without lanes: all lanes at once.
NO_BUCKET = 0


@dataclass(slots=True)
class Bucket:
    """One bucket: its pieces that wait in their order, how many items these are, and how many keep it busy."""

    pieces: deque[ItemRange] = field(default_factory=deque)
    items: int = 0
    busy_items: int = 0


@dataclass(slots=True)
class LanedSubscription(Subscription):
    """A subscription whose items wait in buckets; items of busy ones count as `sleeping_items`.

    A lease takes what it may of the bucket whose first item has waited longest, and of no other: one item that hangs
    would keep all of them. A batch takes of further ones, until it is full.

    >>> from runner.ledger.chunks import Chunk
    >>> line = LanedSubscription("q", ("eat",), bucket_bits=2)
    >>> for number, bucket in enumerate((0b100, 0b101, 0b100, 0b101)):
    ...     _ = line.admit_chunk(Chunk(number, b"", 2, 2, bucket=bucket))
    >>> [piece.item_id for piece in line.take_ranges("eat", 3, 100)]
    ['0.0', '2.0']
    >>> [piece.item_id for piece in line.take_ranges("eat", 9, 100)], line.available_items("eat"), line.count
    (['1.0', '3.0'], 0, 1)
    """

    has_lanes: ClassVar[bool] = True
    #: So many first bits of a hash tell buckets apart.
    bucket_bits: int = 0
    buckets: dict[int, Bucket] = field(default_factory=dict)
    #: The free buckets in which something waits, by the place of their first piece: a heap.
    turn: list[tuple[int, int, int]] = field(default_factory=list)
    #: The bucket from which the lease takes that is being made; and if it takes of no other.
    open_bucket: Bucket | None = None
    is_one_bucket: bool = False

    def bucket_of(self, chunk: Chunk) -> int:
        """Return the number of a chunk's bucket in this line."""
        return chunk.bucket >> max(0, chunk.bucket.bit_length() - 1 - self.bucket_bits) or 1

    def _bucket(self, chunk: Chunk) -> Bucket:
        """Return the bucket of a chunk; one that an earlier run made for fewer buckets lets the line have no more."""
        if (chunk.bucket or 1).bit_length() - 1 < self.bucket_bits:
            self._merge_buckets((chunk.bucket or 1).bit_length() - 1)
        number = self.bucket_of(chunk)
        if (bucket := self.buckets.get(number)) is None:
            bucket = self.buckets[number] = Bucket()
        return bucket

    def _merge_buckets(self, bits: int) -> None:
        """Have fewer buckets. Only before anything is granted: else what is leased would be of no bucket."""
        assert not self.leased_items, "an item without a lane among others that are executed"
        pieces = [piece for bucket in self.buckets.values() for piece in bucket.pieces]
        self.bucket_bits, self.buckets = bits, {}
        for piece in sorted(pieces, key=ARRIVAL):
            bucket = self._bucket(piece.chunk)
            bucket.pieces.append(piece)
            bucket.items += piece.count
        self._take_stock()

    def _take_stock(self) -> None:
        """Look anew which buckets are free, and count what waits in the others."""
        self.sleeping_items = sum(piece.count for *_, piece, _ in self.sleeping_ranges)
        self.sleeping_items += sum(piece.count for _, piece in self.unkept_ranges)
        self.turn = []
        for bucket in self.buckets.values():
            if bucket.busy_items:
                self.sleeping_items += bucket.items
            elif bucket.pieces:
                self.turn.append(self._place(bucket))
        heapify(self.turn)

    def _place(self, bucket: Bucket) -> tuple[int, int, int]:
        first = bucket.pieces[0]
        return first.ticket, first.start, self.bucket_of(first.chunk)

    def _enter_turn(self, bucket: Bucket) -> None:
        heappush(self.turn, self._place(bucket))

    # -- coming in -----------------------------------------------------------------------------

    def admit_chunk(self, chunk: Chunk, group: int | None = None) -> list[ItemRange]:
        """Take a chunk into its bucket; nothing is ever dropped for it."""
        self.counts.put += chunk.count
        if self.abandoned:
            self.counts.left += chunk.count
            return []
        self.last_ticket += 1
        piece = ItemRange(chunk, 0, chunk.count, ticket=self.last_ticket)
        self.count += chunk.count
        self.held_bytes += chunk.size
        if group is None:
            self._add(piece)
        else:
            self.sleeping_items += piece.count
            self.unkept_ranges.append((group, piece))
        return []

    def _add(self, piece: ItemRange) -> None:
        """Put a piece that is counted already into its place in its bucket."""
        bucket = self._bucket(piece.chunk)
        pieces = bucket.pieces
        if not pieces or pieces[-1].ticket < piece.ticket:
            pieces.append(piece)
        else:
            pieces.insert(bisect(pieces, ARRIVAL(piece), key=ARRIVAL), piece)
        bucket.items += piece.count
        if bucket.busy_items:
            self.sleeping_items += piece.count
        elif len(pieces) == 1:
            self._enter_turn(bucket)

    def wake_kept(self, upto: int) -> bool:
        """Make available what has come with the groups up to this one; return True if there was any."""
        if not self.unkept_ranges or self.unkept_ranges[0][0] > upto:
            return False
        while self.unkept_ranges and self.unkept_ranges[0][0] <= upto:
            _, piece = self.unkept_ranges.popleft()
            self.sleeping_items -= piece.count
            self._add(piece)
        return True

    def restore_ranges(self, pieces: Iterable[ItemRange]) -> None:
        """Take in what an earlier run left of one chunk, and counted."""
        self.last_ticket += 1
        for piece in pieces:
            self.count += piece.count
            self.held_bytes += piece.size
            self._add(replace(piece, ticket=self.last_ticket))

    # -- coming back ---------------------------------------------------------------------------

    def end_items(self, piece: ItemRange) -> None:
        """Note that granted items have ended: their bucket may go on."""
        self.leased_items -= piece.count
        self._free(self._bucket(piece.chunk), piece.count)

    def _free(self, bucket: Bucket, items: int) -> None:
        bucket.busy_items -= items
        if not bucket.busy_items and bucket.pieces:
            self.sleeping_items -= bucket.items
            self._enter_turn(bucket)

    def give_back(self, piece: ItemRange, task: str, until: float | None = None) -> None:
        """Return items that were granted to a task; nothing that comes after them in their bucket goes before them."""
        if until is not None:  # it sleeps, and its bucket stays busy
            Subscription.give_back(self, piece, task, until)
            return
        self.leased_items -= piece.count
        self.count += piece.count
        self.held_bytes += piece.size
        self._requeue(piece, task)

    def _requeue(self, piece: ItemRange, task: str) -> None:  # noqa: ARG002  as the other lines'
        self._add(piece)
        self._free(self._bucket(piece.chunk), piece.count)

    def remove_reader(self, task: str, over: Container[str]) -> None:
        """Remove a task that reads no more; if all readers are `over`, everything is left."""
        asleep = list(self.sleeping_ranges)
        Subscription.remove_reader(self, task, over)
        if self.abandoned:
            for *_, piece, _ in asleep:
                self._bucket(piece.chunk).busy_items -= piece.count
            for bucket in self.buckets.values():
                bucket.pieces.clear()
                bucket.items = 0
            self.turn.clear()

    # -- going out -----------------------------------------------------------------------------

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
        """Hand out pieces of one bucket; if `together` asks for a batch, of further ones until that is full."""
        self.open_bucket, self.is_one_bucket = None, together <= 1
        if joining and self.is_one_bucket:
            return []
        taken = Subscription.take_ranges(self, task, most, most_bytes, shared_discount, together, joining=joining)
        self.open_bucket = None
        return taken

    def _take_one(self, task: str) -> ItemRange | None:  # noqa: ARG002  as the other lines'
        return None  # the careful way knows of buckets

    def next_range(self, task: str) -> ItemRange | None:  # noqa: ARG002  as the other lines'
        """Return what would be handed out next; while a lease is being made, the rest of its bucket comes first."""
        if self.open_bucket is not None and self.open_bucket.pieces:
            return self.open_bucket.pieces[0]
        if self.open_bucket is not None and self.is_one_bucket:
            return None
        return self.buckets[self.turn[0][2]].pieces[0] if self.turn else None

    def _split_next(self, task: str, piece: ItemRange, keep: int) -> ItemRange:  # noqa: ARG002  as the other lines'
        """Part the next piece, so that only `keep` items of it are next."""
        pieces = self._bucket(piece.chunk).pieces
        taken = piece.sub_range(0, keep)
        pieces[0] = piece.sub_range(keep, piece.count - keep)
        pieces.appendleft(taken)
        return taken

    def _leave_next(self, task: str, piece: ItemRange) -> None:  # noqa: ARG002  as the other lines'
        """Take out the next piece, which is granted; what is left of its bucket waits for its end."""
        bucket = self.buckets[self.bucket_of(piece.chunk)]
        bucket.pieces.popleft()
        bucket.items -= piece.count
        if bucket.busy_items:
            self.sleeping_items -= piece.count
        else:
            heappop(self.turn)
            self.sleeping_items += bucket.items
        bucket.busy_items += piece.count
        self.open_bucket = bucket
        self.count -= piece.count
        self.held_bytes -= piece.size
        self.leased_items += piece.count

    def has_crashed(self, crashes: int) -> bool:
        """Return True if a piece that waits has so many crashes."""
        asleep = any(piece.crashes >= crashes for *_, piece, _ in self.sleeping_ranges)
        return asleep or any(piece.crashes >= crashes for bucket in self.buckets.values() for piece in bucket.pieces)

    def take_crashed(self, crashes: int) -> list[ItemRange]:
        """Hand out the pieces that have so many crashes; each is a single item."""
        taken: list[ItemRange] = []
        for bucket in self.buckets.values():
            found = [piece for piece in bucket.pieces if piece.crashes >= crashes]
            bucket.pieces = deque(piece for piece in bucket.pieces if piece.crashes < crashes)
            bucket.items -= len(found)
            bucket.busy_items += len(found)
            taken += found
        self.count -= len(taken)
        self.held_bytes -= sum(piece.size for piece in taken)
        self.leased_items += len(taken)
        self._take_stock()
        return taken

    def oldest_ticket(self) -> int | None:
        """Return the ticket of the chunk that came first of those of which something waits; None: nothing does."""
        waiting = [bucket.pieces[0].ticket for bucket in self.buckets.values() if bucket.pieces]
        return min([*waiting, *self._asleep_tickets()], default=None)

    def fullest_bucket(self) -> tuple[int, int, ItemRange] | None:
        """Return the number of the fullest bucket, how many items wait in it, and the first; None: nothing waits."""
        waiting = [(bucket.items, number) for number, bucket in self.buckets.items() if bucket.pieces]
        if not waiting:
            return None
        items, number = max(waiting)
        return number, items, self.buckets[number].pieces[0]
