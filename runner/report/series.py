"""All that was seen over time, in a bounded number of intervals: when they are too many, each second one goes.

All counts are cumulative, so an interval that has lost its neighbour says of both what it said of one. Of a queue's
length the larger is kept.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from runner.events import STATES
from runner.report.record import Series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.events import Progress, Spent

#: Intervals that are kept at most (an even number), and rows of workers: what a page can show, in some megabytes.
MAX_INTERVALS, MAX_WORKER_ROWS = 400, 256
_TURN = STATES.index("turn")
_WIDTH = len(STATES)


class SeriesSampler:
    """Takes `Progress` events; `build_series` returns the intervals so far."""

    def __init__(self) -> None:
        self._at: list[float] = []
        self._done: dict[str, list[int]] = {}
        self._sent: dict[str, list[int]] = {}
        self._queues: dict[str, list[int]] = {}
        self._workers: dict[tuple[str, str], array[float]] = {}
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
        if self._skipped < self._step:
            self._last = at, event
            return
        self._keep_sample(at, event)
        if len(self._at) >= MAX_INTERVALS:
            self._halve_intervals()

    def add_last_interval(self) -> None:
        """End an interval with the last moment, however short it is."""
        if self._last is not None:
            self._keep_sample(*self._last)

    def _keep_sample(self, at: float, event: Progress) -> None:
        self._skipped, self._last = 0, None
        if at <= (self._at[-1] if self._at else 0.0):
            return
        for row, values in ((self._done, "done"), (self._sent, "sent")):
            for task, counts in event.tasks.items():
                _fill_row(row.setdefault(task, []), len(self._at)).append(getattr(counts, values))
        for queue, most in self._most.items():
            _fill_row(self._queues.setdefault(queue, []), len(self._at)).append(most)
        self._most = {}
        for task, workers in event.workers.items():
            for worker in workers:
                self._add_worker((task, worker.name), worker.spent)
        self._at.append(at)
        for flat in self._workers.values():
            if len(flat) < len(self._at) * _WIDTH:  # it is told of no more
                flat.extend(flat[-_WIDTH:])

    def _add_worker(self, key: tuple[str, str], spent: Spent) -> None:
        row = self._workers.get(key)
        if row is None:
            if len(self._workers) >= MAX_WORKER_ROWS:
                self.omitted_workers.add(key)
                return
            row = self._workers[key] = array("f")
            for at in self._at:  # before its task began
                row.extend([at if state == _TURN else 0.0 for state in range(_WIDTH)])
        row.extend([getattr(spent, state) for state in STATES])

    def _halve_intervals(self) -> None:
        self._step *= 2
        self._at = self._at[1::2]
        for rows in (self._done, self._sent):
            for name, row in rows.items():
                rows[name] = row[1::2]
        for queue, lengths in self._queues.items():
            pairs = zip(lengths[::2], lengths[1::2], strict=False)
            self._queues[queue] = [max(pair) for pair in pairs]
        for key, flat in self._workers.items():
            kept = array("f")
            for start in range(_WIDTH, len(flat), 2 * _WIDTH):
                kept.extend(flat[start : start + _WIDTH])
            self._workers[key] = kept

    def build_series(self) -> Series:
        """Return the intervals so far."""
        workers: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
        for (task, worker), flat in self._workers.items():
            workers.setdefault(task, {})[worker] = tuple(self._state_shares(flat))
        return Series(
            at=tuple(round(at, 3) for at in self._at),
            done={task: tuple(row) for task, row in self._done.items()},
            sent={task: tuple(row) for task, row in self._sent.items()},
            queues={queue: tuple(row) for queue, row in self._queues.items()},
            workers=workers,
        )

    def _state_shares(self, flat: array[float]) -> Iterator[tuple[float, ...]]:
        before, last = array("f", [0.0] * _WIDTH), 0.0
        for index, at in enumerate(self._at):
            now = flat[index * _WIDTH : (index + 1) * _WIDTH]
            length = at - last
            yield tuple(round(max(0.0, (new - old) / length), 3) for new, old in zip(now, before, strict=True))
            before, last = now, at


def _fill_row(row: list[int], length: int) -> list[int]:
    """Fill a row that begins late with the 0 that it was before."""
    row.extend([0] * (length - len(row)))
    return row
