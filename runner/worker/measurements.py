"""A worker's measurements of itself: how long its items take, its processor time, its memory; and how often it looks.

Sent four times a second at most, and at its end, in messages of their own: replies stay as small as they are.
"""

from __future__ import annotations

import sys
from math import ceil, log2
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING

from runner.transport.messages import CLASSES_PER_DOUBLING, MeasuredTimes

if TYPE_CHECKING:
    from runner.worker.spec import WorkerPort

_REPORT_INTERVAL = 0.25
_SHORTEST_SECONDS = 1e-9
#: More of what was recorded would take memory.
_MAX_RECORDED = 64
#: An interval that took less than this many seconds is doubled, and one that took more than that many is quartered.
QUICK_SECONDS, SLOW_SECONDS = 0.0005, 0.002
#: Items of one burst at most: all of them are suspects when the worker dies.
MAX_BURST = 512


class Measurements:
    """One worker's measurements. A thread has its own processor time, and no memory of its own."""

    def __init__(self, port: WorkerPort, mode: str) -> None:
        self._port = port
        self._is_thread = mode == "thread"
        self._cpu_clock = thread_time if self._is_thread else process_time
        self._reported_cpu = 0.0
        self._histogram: dict[int, int] = {}
        #: What has been recorded and is not in the histogram yet: that waits until what was done has been sent.
        self._recorded: list[tuple[float, int]] = []
        self._next_report = perf_counter() + _REPORT_INTERVAL

    def record_items(self, seconds: float, items: int) -> None:
        """Count `items` that took `seconds` together; what each of them took is not known better."""
        self._recorded.append((seconds, items))
        if len(self._recorded) >= _MAX_RECORDED:
            self._fill_histogram()

    def _fill_histogram(self) -> None:
        for seconds, items in self._recorded:
            if items > 0:
                key = ceil(log2(max(seconds / items, _SHORTEST_SECONDS)) * CLASSES_PER_DOUBLING)
                self._histogram[key] = self._histogram.get(key, 0) + items
        self._recorded.clear()

    def report_when_due(self, now: float) -> None:
        """Send what was measured, if that was not done just now. In the thread that executes."""
        self._fill_histogram()
        if now >= self._next_report:
            self._next_report = now + _REPORT_INTERVAL
            self.report_now()

    def report_now(self) -> None:
        """Send what was measured since the last time."""
        self._fill_histogram()
        times, self._histogram = self._histogram, {}
        used = self._cpu_clock()
        used, self._reported_cpu = max(0.0, used - self._reported_cpu), used
        self._port.send(MeasuredTimes(tuple(times.items()), used, 0 if self._is_thread else peak_memory()))


def peak_memory() -> int:
    """Return the peak of this process's resident bytes; 0 if it is unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class ClockPace:
    """The number of items that a body executes between two readings of the clock: about a millisecond's.

    A reading costs as much as a small item does on its way. The time that has passed decides how many items there are
    until the next one.

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
