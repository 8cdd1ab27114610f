"""Leases, and the verdicts on their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.ledger.chunks import OrderEntry
    from runner.ledger.subscriptions import ItemRange, Subscription


@dataclass(slots=True)
class Lease:
    """Granted pieces and the worker that holds them. Its id is never used again, so a late answer is recognised."""

    id: int
    task: str
    worker: int
    item_ranges: list[tuple[Subscription, ItemRange]]
    count: int
    order_entry: OrderEntry | None = None
    #: Items at its beginning that are over already; positions that a worker tells count from before them.
    finished_items: int = 0
    #: When it was granted, for tasks whose workers execute many at a time: they do not show which.
    granted_at: float = 0.0

    def drop_finished(self, done: int) -> None:
        """Drop the first `done` items, which are over; the worker goes on with the rest."""
        self.item_ranges = list(self.locate_ranges(done, self.count - done))
        self.count -= done
        self.finished_items += done

    def locate_ranges(self, start: int, count_: int) -> Iterator[tuple[Subscription, ItemRange]]:
        """Yield the parts of this lease's pieces that hold the items `start` .. `start + count_`."""
        for line, piece in self.item_ranges:
            if count_ <= 0:
                return
            if start >= piece.count:
                start -= piece.count
                continue
            length = min(count_, piece.count - start)
            yield line, piece.sub_range(start, length) if (start or length < piece.count) else piece
            count_ -= length
            start = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Verdict on `count` items that failed together: give them again, not before `until`."""

    until: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Dead:
    """Verdict: given up. `evidence` is whatever the caller wants to see again in `Settlement.dead_items`."""

    evidence: Any = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Dropped:
    """Verdict: the file says to skip failed items."""

    count: int = 1


Verdict = Again | Dead | Dropped


@dataclass(frozen=True, slots=True)
class GivenUp:
    """One item that is dead, with the line in which it waited and its evidence."""

    queue: str
    item_range: ItemRange
    evidence: Any


@dataclass(slots=True)
class Settlement:
    """The result of settling a lease: dead items, and the queues that have something new."""

    dead_items: list[GivenUp] = field(default_factory=list)
    fed_queues: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What an ordered task had done whose results cannot leave: items, and what was sent into which queues."""

    task: str
    done: int
    sent: list[tuple[str, int]]
