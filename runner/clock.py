"""Time. Only monotonic time decides anything; seconds as float."""

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
