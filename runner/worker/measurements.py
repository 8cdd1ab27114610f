"""What a worker measures of itself: how long its items take, its processor time, its memory.

Told four times a second at most, and at its end, in messages of their own: the answers stay as small as they are.
"""

from __future__ import annotations

import sys
from math import ceil, log2
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING

from runner.transport.messages import CLASSES_PER_DOUBLING, MeasuredTimes

if TYPE_CHECKING:
    from runner.worker.spec import WorkerPort

_EVERY = 0.25
_LEAST = 1e-9


class Measurements:
    """One worker's measurements. Of a thread the processor time is its own, and its memory is nobody's."""

    def __init__(self, port: WorkerPort, mode: str) -> None:
        self._port = port
        self._thread = mode == "thread"
        self._clock = thread_time if self._thread else process_time
        self._cpu = 0.0
        self._times: dict[int, int] = {}
        self._next = perf_counter() + _EVERY

    def record_items(self, seconds: float, items: int) -> None:
        """So many items took so long; what each of them took is not known better."""
        if items > 0:
            key = ceil(log2(max(seconds / items, _LEAST)) * CLASSES_PER_DOUBLING)
            self._times[key] = self._times.get(key, 0) + items

    def report_when_due(self, now: float) -> None:
        """Tell what was measured, if that was not done just now. In the thread that executes."""
        if now >= self._next:
            self._next = now + _EVERY
            self.report_now()

    def report_now(self) -> None:
        """Tell what was measured since it was last told."""
        times, self._times = self._times, {}
        used = self._clock()
        used, self._cpu = max(0.0, used - self._cpu), used
        self._port.send(MeasuredTimes(tuple(times.items()), used, 0 if self._thread else peak_memory()))


def peak_memory() -> int:
    """The most bytes that this process has held resident; 0 where nobody can tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
