"""Processors during a run: their idle share, whatever else was at work, and what runner itself took of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
#: Less than that is noise: the kernel counts in hundredths of a second.
_TICKS = 20
#: user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these already.
_IDLE, _COLUMNS = (3, 4), 8


def _read_ticks() -> tuple[int, int] | None:
    """Return ticks of the processors that this process may use: idle ones, and all; None where they are not known."""
    idle = total = 0
    try:
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        with _STAT.open(encoding="ascii") as lines:
            for name, *columns in map(str.split, lines):
                if name in allowed:
                    ticks = [int(column) for column in columns[:_COLUMNS]]
                    idle += sum(ticks[at] for at in _IDLE)
                    total += sum(ticks)
                elif not name.startswith("cpu"):
                    break
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return idle, total


class ProcessorMeter:
    """Looks when it is made, and again when it is asked."""

    def __init__(self) -> None:
        self._before = _read_ticks()
        self._cpu = time.process_time()

    def idle_share(self) -> float | None:
        """Return the share of their time since then in which they had nothing to do; None where that is not known.

        >>> ProcessorMeter().idle_share()  # a moment says nothing
        """
        after = _read_ticks()
        if self._before is None or after is None or after[1] - self._before[1] < _TICKS:
            return None
        return max(0.0, min(1.0, (after[0] - self._before[0]) / (after[1] - self._before[1])))

    def cpu_seconds(self) -> float:
        """Return the processor time of this process since then, in seconds, all its threads together.

        >>> ProcessorMeter().cpu_seconds() < 10
        True
        """
        return time.process_time() - self._cpu
