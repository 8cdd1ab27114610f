"""A worker's measurements of itself: how long its items take, its processor time, its memory.

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


class Measurements:
    """One worker's measurements. A thread has its own processor time, and no memory of its own."""

    def __init__(self, port: WorkerPort, mode: str) -> None:
        self._port = port
        self._is_thread = mode == "thread"
        self._cpu_clock = thread_time if self._is_thread else process_time
        self._reported_cpu = 0.0
        self._histogram: dict[int, int] = {}
        self._next_report = perf_counter() + _REPORT_INTERVAL

    def record_items(self, seconds: float, items: int) -> None:
        """Count `items` that took `seconds` together; what each of them took is not known better."""
        if items > 0:
            key = ceil(log2(max(seconds / items, _SHORTEST_SECONDS)) * CLASSES_PER_DOUBLING)
            self._histogram[key] = self._histogram.get(key, 0) + items

    def report_when_due(self, now: float) -> None:
        """Send what was measured, if that was not done just now. In the thread that executes."""
        if now >= self._next_report:
            self._next_report = now + _REPORT_INTERVAL
            self.report_now()

    def report_now(self) -> None:
        """Send what was measured since the last time."""
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
