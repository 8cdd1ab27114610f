"""How a run is now, on disk while it goes on, for `ps`, `top` and the live page in other processes.

The file has the form of `run --events`: the few events that say how the run is, in the order in which they came, so
that who reads it needs nothing that does not read events anyway. It is replaced as a whole.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from runner import events
from runner.errors import UnsafeFolder
from runner.report.journal import EVENTS_VERSION, event_line, parse_events
from runner.report.progress import RATE_WINDOW
from runner.store.run_lock import this_process
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.store.records import RecordFile

#: Seconds between two writings; and while somebody watches.
WRITE_INTERVAL, WATCHED_INTERVAL = 1.0, 0.25
#: And after the disk has refused it.
REFUSED_INTERVAL = 30.0
#: A status that takes long to write, on a slow disk, is written less often: so much of the time goes into it at most.
_MOST_SHARE = 0.01


class StatusWriter:
    """Takes a run's events, and keeps its status file up to date. A disk that refuses costs the run nothing."""

    def __init__(self, records: RecordFile, read_time: Callable[[], float] = time.perf_counter) -> None:
        self._records = records
        self._read_time = read_time
        self._head = ""
        self._started = ""
        #: What the workers of sources have told last, what ended each task, and why the run stops.
        self._kept: dict[tuple[str, ...], str] = {}
        self._last: list[str] = []
        #: Of the last seconds: the first of them says with the present one how fast everything is.
        self._past: deque[events.Progress] = deque()
        self._next_write = 0.0

    def handle_event(self, event: events.Event) -> None:
        """Take one more event, and write the status when it is time."""
        match event:
            case events.RunStarted():
                head = {"runner": __version__, "version": EVENTS_VERSION, **msgspec.to_builtins(this_process())}
                self._head = json.dumps(head)
                # The file as it was resolved is in the record, and long.
                self._started = event_line(replace(event, plan=replace(event.plan, resolved="")))
                self._write([])
            case events.WorkerProgress():
                self._kept["told", event.task, event.worker] = event_line(event)
            case events.RunStopping() | events.RunKilled():
                self._kept[(type(event).__name__,)] = event_line(event)
                self._write(self._last)
            case events.TaskEnded():
                self._kept["ended", event.task] = event_line(event)
            case events.Progress() if event.at >= self._next_write or self._is_wanted(event.at):
                self._past.append(replace(event, workers={}))
                while self._past[0].at < event.at - RATE_WINDOW:
                    self._past.popleft()
                earlier = [event_line(self._past[0])] if len(self._past) > 1 else []
                self._last = [*earlier, event_line(event)]
                self._next_write = event.at + self._write(self._last)

    def _is_wanted(self, now: float) -> bool:
        return self._next_write - now <= WRITE_INTERVAL - WATCHED_INTERVAL and self._records.is_watched()

    def _write(self, last: list[str]) -> float:
        """Write it; return the seconds until it is to be written again."""
        lines = [self._head, self._started, *self._kept.values(), *last, ""]
        began = self._read_time()
        try:
            self._records.write_status("\n".join(lines).encode("utf-8", "backslashreplace"))
        except (OSError, UnsafeFolder):
            return REFUSED_INTERVAL
        return max(WRITE_INTERVAL, (self._read_time() - began) / _MOST_SHARE)


def parse_status(text: str) -> list[events.Event]:
    """Return the events of a status; none of one that cannot be read."""
    return list(parse_events(text.splitlines(keepends=True), "status"))
