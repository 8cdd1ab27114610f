"""The distance between two readings of the clock: as many items as take about a millisecond.

A reading costs as much as a small item does on its way, so a body reads the clock now and then. The time
that has passed decides how many items there are until the next reading.
"""

from __future__ import annotations

#: An interval that took less than this many seconds is doubled, and one that took more than that many is quartered.
QUICK_SECONDS, SLOW_SECONDS = 0.0005, 0.002
#: Items of one burst at most: all of them are suspects when the worker dies.
MAX_BURST = 512


class ClockPace:
    """The number of items that a body executes between two readings of the clock.

    >>> pace = ClockPace(max_interval=4)
    >>> for seconds in (0.0001, 0.0001, 0.0001): pace.adapt_interval(seconds)
    >>> pace.clock_check_interval, pace.adapt_interval(0.1), pace.clock_check_interval
    (4, None, 1)
    """

    __slots__ = ("_max_interval", "clock_check_interval")

    def __init__(self, max_interval: int = MAX_BURST) -> None:
        self.clock_check_interval = 1
        self._max_interval = max_interval

    def adapt_interval(self, seconds: float) -> None:
        """Set the next interval; the present one took `seconds`."""
        if seconds < QUICK_SECONDS:
            self.clock_check_interval = min(self._max_interval, 2 * self.clock_check_interval)
        elif seconds > SLOW_SECONDS:
            self.clock_check_interval = max(1, self.clock_check_interval // 4)
