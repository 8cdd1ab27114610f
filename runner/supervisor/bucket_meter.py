"""The fullest buckets of queues with lanes, for people: a lane that is stuck can fill its queue."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from runner.events import FullestBucket
from runner.ledger.lanes import LanedSubscription

if TYPE_CHECKING:
    from runner.ledger.ledger import Ledger

#: Seconds between two looks.
_INTERVAL = 0.25
#: Moments that are kept of one line; of more, every second one is forgotten.
_MOST_MOMENTS = 10_000


class BucketMeter:
    """Looks now and then which bucket is the fullest, and knows about when each item has come.

    >>> from runner.ledger.chunks import Chunk
    >>> from runner.ledger.ledger import Ledger
    >>> ledger = Ledger([LanedSubscription("q", ("eat",), bucket_bits=6)])
    >>> meter = BucketMeter(ledger)
    >>> for number, now in enumerate((10.0, 11.0)):
    ...     ledger.put("q", [Chunk(number, b"", 2, 2, bucket=64 + 5)])
    ...     meter.look(now)
    >>> meter.fullest_now(ledger.subscriptions[0], 15.0)
    FullestBucket(number=5, buckets=64, items=4, seconds=5.0)
    """

    def __init__(self, ledger: Ledger) -> None:
        self.lines = [line for line in ledger.subscriptions if isinstance(line, LanedSubscription)]
        self.due = 0.0 if self.lines else float("inf")
        #: By queue: the fullest bucket there was.
        self.fullest: dict[str, FullestBucket] = {}
        #: By line: the last ticket that had been given at a moment.
        self._moments: dict[str, list[tuple[int, float]]] = {line.name: [] for line in self.lines}

    def look(self, now: float) -> None:
        """Note what has come until now, and the fullest buckets."""
        self.due = now + _INTERVAL
        for line in self.lines:
            moments = self._moments[line.name]
            if not moments or moments[-1][0] < line.last_ticket:
                moments.append((line.last_ticket, now))
            first = min((bucket.pieces[0].ticket for bucket in line.buckets.values() if bucket.pieces), default=1 << 62)
            del moments[: bisect_left(moments, (first, 0.0))]
            if len(moments) > _MOST_MOMENTS:
                del moments[1::2]
            found, known = self.fullest_now(line, now), self.fullest.get(line.queue)
            if found is not None and (known is None or found.items >= known.items):
                self.fullest[line.queue] = found

    def fullest_now(self, line: LanedSubscription, now: float) -> FullestBucket | None:
        """Return the bucket of a line in which the most items wait; None: none has any."""
        if (found := line.fullest_bucket()) is None:
            return None
        number, items, first = found
        moments = self._moments[line.name]
        at = bisect_left(moments, (first.ticket, 0.0))
        seconds = now - moments[at][1] if at < len(moments) else 0.0
        return FullestBucket(number - (1 << line.bucket_bits), 1 << line.bucket_bits, items, seconds)

    def describe_line(self, line: object, now: float) -> str:
        """Return a few words on the fullest bucket of a line, to follow what else is said of it."""
        if not isinstance(line, LanedSubscription) or (found := self.fullest_now(line, now)) is None:
            return ""
        return f" ({found.items:,} in bucket {found.number} of {found.buckets}, the first for {found.seconds:.0f} s)"
