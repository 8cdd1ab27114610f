"""Time: the real one, and the one that tests control. Only monotonic time decides anything; seconds as float."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The source of time for the supervisor."""

    def now(self) -> float:
        """Return the seconds on a clock that never goes back."""


class RealClock:
    """The machine's monotonic clock."""

    #: Seconds since some fixed moment. The function itself: it is asked several times for each message.
    now = staticmethod(time.monotonic)


class FakeClock:
    """A clock that stands still until it is told otherwise.

    >>> clock = FakeClock()
    >>> clock.advance(1.5)
    >>> clock.now()
    1.5
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the time that was last set."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
