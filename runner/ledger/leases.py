"""Leases, and the verdicts on their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.ledger.ordering import Entry
    from runner.ledger.subscriptions import Line, Piece


@dataclass(slots=True)
class Lease:
    """Granted pieces and the worker that holds them. Its id is never used again, so a late answer is recognised."""

    id: int
    task: str
    worker: int
    pieces: list[tuple[Line, Piece]]
    count: int
    entry: Entry | None = None
    #: Items at its beginning that are over already; positions that a worker tells count from before them.
    over: int = 0

    def shorten(self, done: int) -> None:
        """The first `done` items are over; the worker goes on with the rest."""
        self.pieces = list(self.locate(done, self.count - done))
        self.count -= done
        self.over += done

    def locate(self, start: int, count_: int) -> Iterator[tuple[Line, Piece]]:
        """The parts of this lease's pieces that hold the items `start` .. `start + count_`."""
        for line, piece in self.pieces:
            if count_ <= 0:
                return
            if start >= piece.count:
                start -= piece.count
                continue
            length = min(count_, piece.count - start)
            yield line, piece.part(start, length) if (start or length < piece.count) else piece
            count_ -= length
            start = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Verdict on `count` items that failed together: give them again, not before `until`."""

    until: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Dead:
    """Verdict: given up. `evidence` is whatever the caller wants to see again in `Settlement.dead`."""

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
    piece: Piece
    evidence: Any


@dataclass(slots=True)
class Settlement:
    """What settling a lease has brought: dead items, and the queues that have something new."""

    dead: list[GivenUp] = field(default_factory=list)
    fed: set[str] = field(default_factory=set)
