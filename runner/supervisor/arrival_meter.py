"""The item of each queue that has waited longest, and the fullest buckets of queues with lanes, for people.

No item has a time of its own: four times a second it is noted how many have come by then, so a time is exact to that.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from typing import TYPE_CHECKING

from runner.events import FullestBucket
from runner.ledger.lanes import LanedSubscription

if TYPE_CHECKING:
    from runner.ledger.ledger import Ledger
    from runner.ledger.subscriptions import Subscription

#: Seconds between two looks.
_INTERVAL = 0.25
#: Of more moments of one line than these, those are forgotten without which an age is still exact to this share of it:
#: some 600 are left of a week.
_MOST_MOMENTS, _AGE_SHARE = 1024, 0.02


class ArrivalMeter:
    """Looks now and then what has come, which bucket is the fullest, and which item has waited longest.

    `listening`: there is a listener; without one only lines with lanes are looked at, for the end of the run.

    >>> from runner.ledger.chunks import Chunk
    >>> from runner.ledger.ledger import Ledger
    >>> ledger = Ledger([LanedSubscription("q", ("eat",), bucket_bits=6)])
    >>> meter = ArrivalMeter(ledger, listening=True)
    >>> for number, now in enumerate((10.0, 11.0)):
    ...     ledger.put("q", [Chunk(number, b"", 2, 2, bucket=64 + 5)])
    ...     meter.look(now)
    >>> meter.fullest_now(ledger.subscriptions[0], 15.0)
    FullestBucket(number=5, buckets=64, items=4, seconds=5.0)
    >>> meter.oldest_waits(15.0), meter.fullest_buckets(15.0)["q"].items
    ({'q': 5.0}, 4)
    """

    def __init__(self, ledger: Ledger, *, listening: bool) -> None:
        self._laned = [line for line in ledger.subscriptions if isinstance(line, LanedSubscription)]
        self._lines: list[Subscription] = ledger.subscriptions if listening else [*self._laned]
        self.due = 0.0 if self._lines else inf
        #: By queue: the fullest bucket there was.
        self.fullest: dict[str, FullestBucket] = {}
        #: By line: the last ticket that had been given at a moment.
        self._moments: dict[str, list[tuple[int, float]]] = {line.name: [] for line in self._lines}

    def look(self, now: float) -> None:
        """Note what has come until now, and the fullest buckets."""
        self.due = now + _INTERVAL
        for line in self._lines:
            moments = self._moments[line.name]
            if not moments or moments[-1][0] < line.last_ticket:
                moments.append((line.last_ticket, now))
                if len(moments) > _MOST_MOMENTS:
                    self._moments[line.name] = _thin_out(moments, now)
        for laned in self._laned:
            found, known = self.fullest_now(laned, now), self.fullest.get(laned.queue)
            if found is not None and (known is None or found.items >= known.items):
                self.fullest[laned.queue] = found

    def oldest_waits(self, now: float) -> dict[str, float]:
        """Return how long the item of each queue has waited that has waited longest; no queue where none waits.

        What came back waits since it came for the first time; what an earlier life has left, since this one began.
        """
        found: dict[str, float] = {}
        for line in self._lines:
            if line.count and (ticket := line.oldest_ticket()) is not None:
                found[line.queue] = max(found.get(line.queue, 0.0), self._seconds_since(line, ticket, now))
        return found

    def _seconds_since(self, line: Subscription, ticket: int, now: float) -> float:
        moments = self._moments[line.name]
        at = bisect_left(moments, (ticket, 0.0))
        return now - moments[at][1] if at < len(moments) else 0.0

    def fullest_now(self, line: LanedSubscription, now: float) -> FullestBucket | None:
        """Return the bucket of a line in which the most items wait; None: none has any."""
        if (found := line.fullest_bucket()) is None:
            return None
        number, items, first = found
        seconds = self._seconds_since(line, first.ticket, now)
        return FullestBucket(number - (1 << line.bucket_bits), 1 << line.bucket_bits, items, seconds)

    def fullest_buckets(self, now: float) -> dict[str, FullestBucket]:
        """Return the fullest bucket of each queue with lanes in which an item waits."""
        found: dict[str, FullestBucket] = {}
        for line in self._laned:
            bucket, known = self.fullest_now(line, now), found.get(line.queue)
            if bucket is not None and (known is None or bucket.items > known.items):
                found[line.queue] = bucket
        return found

    def describe_line(self, line: object, now: float) -> str:
        """Return a few words on the fullest bucket of a line, to follow what else is said of it."""
        if not isinstance(line, LanedSubscription) or (found := self.fullest_now(line, now)) is None:
            return ""
        return f" ({found.items:,} in bucket {found.number} of {found.buckets}, the first for {found.seconds:.0f} s)"


def _thin_out(moments: list[tuple[int, float]], now: float) -> list[tuple[int, float]]:
    """Return the moments that tell ages exactly enough: the older, the fewer."""
    kept = moments[-1:]
    for ticket, at in reversed(moments):
        if kept[-1][1] - at > _AGE_SHARE * (now - at):
            kept.append((ticket, at))
    return kept[::-1]
