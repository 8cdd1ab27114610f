"""Chunk sizes, in items to move at once: a chunk is a slice of time, about 50 ms of work.

The estimate of what an item costs follows the workers' own measurements. It may at most double the last chunk,
so a wrong guess costs little, and it falls at once when items become slow. Near the end of a stream, and whenever
there is less than all workers could use, what is queued is shared out fairly. Source of the idea: joblib's
auto-batching, which has no hand-back and reacts only after whole batches.
"""

from __future__ import annotations

from runner.structs import dataclass

TIME_SLICE = 0.050
#: Workers from which on the slice grows, so that the supervisor stays under a tenth busy.
CROWD_WORKERS = 50
#: What it takes to give one chunk to one worker, in seconds, about.
GRANT_SECONDS = 0.0002
#: Bytes moved at once.
MAX_GRANT_BYTES = 1 << 20
#: Bytes in shared memory weigh less than those that are copied, so much less at most.
MAX_SHARED_DISCOUNT = 16
#: A worker that has something to do is given one in so many of the items that are due to it.
_PARTS = 4
#: Items that take longer than this are granted one by one, with nothing waiting behind them in the worker.
LONG_ITEM_SECONDS = 0.020


def time_slice_for(workers: int) -> float:
    """Return the seconds of work in one chunk when so many workers are fed.

    >>> time_slice_for(2), time_slice_for(64)
    (0.05, 0.064)
    """
    return TIME_SLICE * max(1.0, workers / CROWD_WORKERS)


def shared_discount_for(bound: int) -> int:
    """Return how much less bytes in shared memory weigh where queues are bounded by `bound` bytes.

    >>> shared_discount_for(64_000_000), shared_discount_for(2_000_000)
    (15, 1)
    """
    return max(1, min(MAX_SHARED_DISCOUNT, bound // 4 // MAX_GRANT_BYTES))


@dataclass(slots=True)
class ChunkSizer:
    """The cost of one task's items, and how many of them make a chunk."""

    time_slice: float = TIME_SLICE
    item_seconds: float = 0.0
    last_items: int = 0

    def learn_cost(self, items: int, seconds: float) -> None:
        """Learn that a worker took `seconds` for `items`."""
        if items <= 0:
            return
        cost = max(seconds, 1e-9) / items
        # Up at once, down by halves: an item that turns out slow must not be followed by a thousand others.
        self.last_items = items if self.item_seconds and cost > 4 * self.item_seconds else max(self.last_items, items)
        self.item_seconds = cost if cost > self.item_seconds else (self.item_seconds + cost) / 2

    def items_to_grant(self, available: int, takers: int, leased: int = 0, held: int = 0) -> int:
        """Return how many of the `available` items to grant to one of `takers` workers that could take some.

        `leased` are those that they hold already, and `held` the ones that this worker holds.

        >>> grain = ChunkSizer(); grain.items_to_grant(1000, 2)
        1
        >>> grain.learn_cost(1, 0.001); grain.items_to_grant(1000, 2)
        2
        >>> grain.learn_cost(2, 0.002); grain.learn_cost(4, 0.004)
        >>> grain.items_to_grant(1000, 2), grain.items_to_grant(3, 2)
        (8, 2)
        >>> grain.items_to_grant(24, 2, leased=8, held=4), grain.items_to_grant(24, 2, leased=8, held=8)
        (3, 2)
        """
        if not self.item_seconds:
            return min(1, available)
        wanted = max(1, int(self.time_slice / self.item_seconds))
        fair = -(-available // max(1, takers))
        if held and takers > 1 and fair < wanted:  # the rest goes to who is done first
            fair = min(fair, (-(-(available + leased) // takers) - held) // _PARTS)
        # Less than what can be done while each worker is given something only keeps the supervisor busy.
        fair = max(fair, int(takers * GRANT_SECONDS / self.item_seconds))
        return max(1, min(wanted, 2 * self.last_items, fair, available))

    @property
    def is_quick(self) -> bool:
        """Return True if a second chunk may wait in the worker while the first is executed."""
        return 0.0 < self.item_seconds < LONG_ITEM_SECONDS
