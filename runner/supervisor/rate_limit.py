"""`rate`: so many items a second over all workers of a task, without bursts beyond one second's worth.

A token bucket: it fills steadily, holds at most one second's worth, and starts with one token, so that no minute
sees more than the rate.

>>> throttle = TokenBucket(count=50, period=1.0)
>>> throttle.allowed_items(now=0.0), throttle.allowed_items(now=0.1), throttle.allowed_items(now=60.0)
(1, 6, 50)
>>> throttle.take_tokens(50); throttle.allowed_items(now=60.0), round(throttle.ready_at(now=60.0), 3)
(0, 60.02)
"""

from __future__ import annotations

#: Fast rates are granted in steps of at least this many seconds.
_STEP = 0.005


class TokenBucket:
    """The bucket of one task."""

    def __init__(self, count: float, period: float) -> None:
        self._per_second = count / period
        self._capacity = max(1.0, self._per_second)
        self._tokens = 1.0
        self._at: float | None = None

    def _fill(self, now: float) -> None:
        if self._at is None:  # it fills from its first use on, not while workers start
            self._at = now
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._per_second)
        self._at = now

    def allowed_items(self, now: float, least: int = 1) -> int:
        """Return how many items may be granted now; 0 when that is fewer than `least`.

        A batch larger than the bucket goes when the bucket is full, and is paid for afterwards.
        """
        self._fill(now)
        if self._tokens + 1e-9 < min(least, self._capacity):
            return 0
        return max(least, int(self._tokens + 1e-9))

    def take_tokens(self, items: int) -> None:
        """Take tokens for items that were granted."""
        self._tokens -= items

    def return_tokens(self, items: int) -> None:
        """Return tokens for items that were handed back unexecuted."""
        self._tokens = min(self._capacity, self._tokens + items)

    def ready_at(self, now: float, least: int = 1) -> float:
        """Return when the next `least` items may be granted."""
        self._fill(now)
        return now + max(_STEP, (min(least, self._capacity) - self._tokens) / self._per_second)
