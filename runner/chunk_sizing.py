"""How many items to move at once: a chunk is a slice of time, about 50 ms of work.

The estimate of what an item costs follows the workers' own measurements. It may at most double the last chunk,
so a wrong guess costs little, and it falls at once when items become slow. Near the end of a stream, and whenever
there is less than everybody could use, what is queued is shared out fairly. Source of the idea: joblib's
auto-batching, which has no hand-back and reacts only after whole batches.
"""

from __future__ import annotations

from runner.structs import dataclass

SLICE = 0.050
#: Workers from which on the slice grows, so that the supervisor stays under a tenth busy.
CROWD = 50
#: What it takes to give one chunk to one worker, in seconds, about.
HANDING = 0.0002
#: Seconds of work for each worker that a queue must hold so that its writers may wait before they send more.
AMPLE = 0.002
#: Bytes moved at once.
MOST_BYTES = 1 << 20
#: Bytes in shared memory weigh less than those that are copied, so much less at most.
LIGHTEST = 16
#: A worker that has something to do is given one in so many of the items that are due to it.
_PARTS = 4
#: Items that take longer than this are granted one by one, with nothing waiting behind them in the worker.
LONG_ITEM = 0.020


def slice_for(workers: int) -> float:
    """Seconds of work in one chunk when so many workers are fed.

    >>> slice_for(2), slice_for(64)
    (0.05, 0.064)
    """
    return SLICE * max(1.0, workers / CROWD)


def lightness(bound: int) -> int:
    """How much less bytes in shared memory weigh where queues are bounded by so many bytes.

    >>> lightness(64_000_000), lightness(2_000_000)
    (15, 1)
    """
    return max(1, min(LIGHTEST, bound // 4 // MOST_BYTES))


@dataclass(slots=True)
class Grain:
    """What the items of one task cost, and how many of them make a chunk."""

    slice: float = SLICE
    cost: float = 0.0
    last: int = 0

    def learn(self, items: int, seconds: float) -> None:
        """A worker took so long for so many items."""
        if items <= 0:
            return
        cost = max(seconds, 1e-9) / items
        # Up at once, down by halves: an item that turns out slow must not be followed by a thousand others.
        self.last = items if self.cost and cost > 4 * self.cost else max(self.last, items)
        self.cost = cost if cost > self.cost else (self.cost + cost) / 2

    def items(self, available: int, takers: int, leased: int = 0, held: int = 0) -> int:
        """How many of the `available` items to grant to one of `takers` workers that could take some.

        `leased` are those that they hold already, and `held` the ones that this worker holds.

        >>> grain = Grain(); grain.items(1000, 2)
        1
        >>> grain.learn(1, 0.001); grain.items(1000, 2)
        2
        >>> grain.learn(2, 0.002); grain.learn(4, 0.004); grain.items(1000, 2), grain.items(3, 2)
        (8, 2)
        >>> grain.items(24, 2, leased=8, held=4), grain.items(24, 2, leased=8, held=8)
        (3, 2)
        """
        if not self.cost:
            return min(1, available)
        wanted = max(1, int(self.slice / self.cost))
        fair = -(-available // max(1, takers))
        if held and takers > 1 and fair < wanted:  # the rest goes to who is done first
            fair = min(fair, (-(-(available + leased) // takers) - held) // _PARTS)
        # Less than what can be done while everybody is given something only keeps the supervisor busy.
        fair = max(fair, int(takers * HANDING / self.cost))
        return max(1, min(wanted, 2 * self.last, fair, available))

    def ample(self, available: int, takers: int) -> bool:
        """Whether so many items keep so many workers busy for a moment.

        >>> grain = Grain(); grain.learn(10, 0.010); grain.ample(20, 2), grain.ample(3, 2)
        (True, False)
        """
        return available * self.cost >= takers * AMPLE

    @property
    def quick(self) -> bool:
        """Whether a second chunk may wait in the worker while the first is executed."""
        return 0.0 < self.cost < LONG_ITEM
