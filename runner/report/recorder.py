"""Keeps the record of a run on disk while it goes on, so that something is left of it however it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner import events
from runner.report.journal import dumps
from runner.report.record_builder import Fold

if TYPE_CHECKING:
    from runner.report.record import Record
    from runner.store.records import Records

#: Seconds between two writings of a run that goes on.
EVERY = 10.0


class Recorder:
    """Takes a run's events; `records` None: nothing is kept, `record` is all."""

    def __init__(self, records: Records | None = None, keep: int = 0) -> None:
        self._fold = Fold()
        self._records = records
        self._keep = keep
        self._written = 0.0

    @property
    def trouble(self) -> str:
        """What the disk has refused."""
        return self._records.trouble if self._records is not None else ""

    def event(self, event: events.Event) -> None:
        """One more event."""
        self._fold.event(event)
        if self._records is None:
            return
        if isinstance(event, events.RunStarted):
            self._records.begin()
            self._write(event.at)
            self._records.prune(self._keep)
        elif isinstance(event, events.Progress) and event.at - self._written >= EVERY:
            self._write(event.at)

    def _write(self, at: float) -> None:
        assert self._records is not None
        self._written = at
        self._records.write(dumps(self.record()))

    def record(self) -> Record:
        """What is known so far."""
        return self._fold.record()

    def close(self, exit_code: int | None = None) -> Record:
        """The run is over: its record, which is kept. `exit_code` is another one than the run's own."""
        record = self.record()
        if exit_code is not None:
            record = replace(record, exit_code=exit_code)
        if self._records is not None:
            self._records.write(dumps(record))
            self.end()
        return record

    def end(self) -> None:
        """Nothing more is kept, whether the run has ended or could not go on; `close` does it too."""
        if self._records is not None:
            self._records.close()
