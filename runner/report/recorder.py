"""Keeps the record of a run on disk while it goes on, so that something is left of it however it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner import events
from runner.report.journal import dump_json
from runner.report.record_builder import RecordBuilder

if TYPE_CHECKING:
    from runner.report.record import RunRecord
    from runner.store.records import RecordFile

#: Seconds between two writings of a run that goes on.
WRITE_INTERVAL = 10.0


class Recorder:
    """Takes a run's events; `records` None: nothing is kept, `record` is all."""

    def __init__(self, records: RecordFile | None = None, keep: int = 0) -> None:
        self._builder = RecordBuilder()
        self._records = records
        self._keep = keep
        self._written = 0.0

    @property
    def write_error(self) -> str:
        """Return what the disk has refused."""
        return self._records.write_error if self._records is not None else ""

    def handle_event(self, event: events.Event) -> None:
        """Take one more event."""
        self._builder.handle_event(event)
        if self._records is None:
            return
        if isinstance(event, events.RunStarted):
            self._records.mark_running()
            self._write_record(event.at)
            self._records.prune_old_records(self._keep)
        elif isinstance(event, events.Progress) and event.at - self._written >= WRITE_INTERVAL:
            self._write_record(event.at)

    def _write_record(self, at: float) -> None:
        assert self._records is not None
        self._written = at
        self._records.write_record(dump_json(self.current_record()))

    def current_record(self) -> RunRecord:
        """Return what is known so far."""
        return self._builder.build_record()

    def close(self, exit_code: int | None = None) -> RunRecord:
        """Keep the record of the run, which is over, and return it. `exit_code` replaces the run's own."""
        record = self.current_record()
        if exit_code is not None:
            record = replace(record, exit_code=exit_code)
        if self._records is not None:
            self._records.write_record(dump_json(record))
            self.stop_recording()
        return record

    def stop_recording(self) -> None:
        """Keep nothing more, whether the run has ended or could not go on; `close` does it too."""
        if self._records is not None:
            self._records.close()
