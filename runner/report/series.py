"""All that was seen over time, in a bounded number of intervals: when they are too many, each second one goes.

All counts are cumulative, so an interval that has lost its neighbour says of both what it said of one. Of a queue's
length the larger is kept.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from runner.events import STATES
from runner.report.record import Series
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.events import Progress

#: Intervals that are kept at most (an even number), and rows of workers: what a page can show, in some megabytes.
MAX_INTERVALS, MAX_WORKER_ROWS = 400, 256
_TURN = STATES.index("turn")
_WIDTH = len(STATES)


@dataclass(slots=True)
class SeriesSample:
    """The end of an interval. `workers` has the seconds in each state, one row of workers behind the other."""

    at: float
    done: dict[str, int]
    sent: dict[str, int]
    queues: dict[str, int]
    workers: array[float]


class SeriesSampler:
    """Takes `Progress` events; `build_series` returns the intervals so far."""

    def __init__(self) -> None:
        self._samples: list[SeriesSample] = []
        self._rows: dict[tuple[str, str], int] = {}
        #: One in so many events ends an interval; what the queues were at most in those that did not.
        self._step = 1
        self._skipped = 0
        self._last: tuple[float, Progress] | None = None
        self._most: dict[str, int] = {}
        #: Workers for which there was no room.
        self.omitted_workers: set[tuple[str, str]] = set()

    def add_sample(self, at: float, event: Progress) -> None:
        """Take one more moment, `at` seconds since the run began."""
        for queue, length in event.queues.items():
            self._most[queue] = max(self._most.get(queue, 0), length)
        self._skipped += 1
        self._last = at, event
        if self._skipped >= self._step:
            self.add_last_interval()
            if len(self._samples) >= MAX_INTERVALS:
                self._halve_intervals()

    def add_last_interval(self) -> None:
        """End an interval with the last moment, however short it is."""
        before = self._samples[-1] if self._samples else SeriesSample(0.0, {}, {}, {}, array("f"))
        if self._last is None or self._last[0] <= before.at:
            return
        at, event = self._last
        workers = before.workers[:]  # a worker of which nothing more is told stays as it was
        for key, spent in (((task, each.name), each.spent) for task, found in event.workers.items() for each in found):
            if key not in self._rows and len(self._rows) >= MAX_WORKER_ROWS:
                self.omitted_workers.add(key)
                continue
            row = self._rows.setdefault(key, len(self._rows))
            workers[row * _WIDTH : (row + 1) * _WIDTH] = array("f", [getattr(spent, state) for state in STATES])
        done = {task: counts.done for task, counts in event.tasks.items()}
        sent = {task: counts.sent for task, counts in event.tasks.items()}
        self._samples.append(SeriesSample(at, done, sent, self._most, workers))
        self._skipped, self._last, self._most = 0, None, {}

    def _halve_intervals(self) -> None:
        self._step *= 2
        for gone, kept in zip(self._samples[::2], self._samples[1::2], strict=True):
            kept.queues = {queue: max(most, gone.queues.get(queue, 0)) for queue, most in kept.queues.items()}
        del self._samples[::2]

    def build_series(self) -> Series:
        """Return the intervals so far."""
        samples = self._samples
        workers: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
        for (task, worker), row in self._rows.items():
            workers.setdefault(task, {})[worker] = tuple(self._state_shares(row))
        return Series(
            at=tuple(round(sample.at, 3) for sample in samples),
            done=_counts_by_name([sample.done for sample in samples]),
            sent=_counts_by_name([sample.sent for sample in samples]),
            queues=_counts_by_name([sample.queues for sample in samples]),
            workers=workers,
        )

    def _state_shares(self, row: int) -> Iterator[tuple[float, ...]]:
        before, last = array("f", [0.0] * _WIDTH), 0.0
        for sample in self._samples:
            now = sample.workers[row * _WIDTH : (row + 1) * _WIDTH]
            if not now:  # before its task began
                now = array("f", [sample.at if state == _TURN else 0.0 for state in range(_WIDTH)])
            length = sample.at - last
            yield tuple(round(max(0.0, (new - old) / length), 3) for new, old in zip(now, before, strict=True))
            before, last = now, sample.at


def _counts_by_name(counts: list[dict[str, int]]) -> dict[str, tuple[int, ...]]:
    """Return each name's count in every interval, 0 where it has none."""
    names = dict.fromkeys(name for found in counts for name in found)
    return {name: tuple(found.get(name, 0) for found in counts) for name in names}
