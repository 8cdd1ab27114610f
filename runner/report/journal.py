"""A run's events as JSON lines, and back: `run --events FILE`, `report --events FILE`.

The first line says which form it is. A thread writes, so a slow reader of a pipe does not hold up the run; when ten
thousand events wait for it, further ones are lost. What could not be written is told once, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from runner import events
from runner.errors import UsageError
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runner.report.record import RunRecord

#: Raised when an event or a field is taken away or means something else; new ones may come at any time.
EVENTS_VERSION = 1
_MOST_WAITING = 10_000
NO_EVENTS = "it holds no events of a run"


def _parts(value: Any) -> dict[str, Any]:
    """A dataclass that is a part of what is written."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def dump_json(value: Any) -> str:
    """JSON of dataclasses within each other; quicker than `dataclasses.asdict`, which copies everything.

    >>> dump_json(events.Notice(1.5, "hello"))
    '{"at":1.5,"text":"hello"}'
    """
    return json.dumps(value, default=_parts, separators=(",", ":"))


def summary_json(record: RunRecord) -> str:
    """A record for scripts: without what was seen over time, which `runner report --json` has."""
    shown = {key: value for key, value in _parts(record).items() if key != "series"}
    return json.dumps(shown, default=_parts, indent=2)


def event_line(event: events.Event) -> str:
    """An event as a line.

    >>> event_line(events.Notice(1.5, "hello"))
    '{"event":"Notice","at":1.5,"text":"hello"}'
    """
    return dump_json({"event": type(event).__name__, **_parts(event)})


class EventJournal:
    """Writes events to a file. `write_error` says what could not be written."""

    def __init__(self, path: str) -> None:
        self.write_error = ""
        self._path = path
        self._lost = 0
        try:
            # A named pipe is opened when somebody reads it: that is the user's word.
            self._file: TextIO = Path(path).open("w", encoding="utf-8")  # noqa: SIM115  closed by `close`
        except (OSError, ValueError) as error:
            raise UsageError(f"--events: {path!r} cannot be written: {_reason(error)}") from None
        self._waiting: queue.Queue[events.Event | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="runner-events", daemon=True)
        self._thread.start()

    def handle_event(self, event: events.Event) -> None:
        """Write it, by and by."""
        if self.write_error:
            return
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._lost += 1

    def close(self, timeout: float = 10.0) -> None:
        """Wait until all is written; a reader who takes nothing any more is left alone after `timeout` seconds."""
        until = time.monotonic() + timeout
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=0.0 if self.write_error else timeout)
        self._thread.join(max(0.0, until - time.monotonic()))
        if not self.write_error and (self._lost or self._thread.is_alive()):
            lost = self._lost + self._waiting.qsize()
            self.write_error = f"--events: {self._path} was read too slowly: {lost:,} events lost"

    def _write(self) -> None:
        try:
            with self._file as file:
                file.write(dump_json({"runner": __version__, "version": EVENTS_VERSION}) + "\n")
                while (event := self._waiting.get()) is not None:
                    file.write(event_line(event) + "\n")
                    if self._waiting.empty():  # while they come thick and fast, full buffers are written
                        file.flush()
        except (OSError, ValueError) as error:
            self.write_error = f"--events: {self._path}: {_reason(error)}; events lost"


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read(path: str) -> Iterator[events.Event]:
    """Return the events of a file that this version knows, without a last line that was cut off; else UsageError."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            yield from parse_events(file, path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else NO_EVENTS
        raise UsageError(f"{path}: {why}") from None


def parse_events(lines: Iterable[str], where: str) -> Iterator[events.Event]:
    """Return the events of lines that came from `where`, as `read` does; else UsageError."""
    rest = iter(lines)
    try:
        head = json.loads(next(rest, ""))
        version = head.get("version")
        if not isinstance(version, int) or "runner" not in head:
            raise ValueError  # noqa: TRY301  as for whatever else is no file of events
        if version > EVENTS_VERSION:
            text = f"events of version {version}, and this runner knows {EVENTS_VERSION}: use a newer one"
            raise UsageError(f"{where}: {text}")
        for number, text in enumerate(rest, 2):
            if not text.endswith("\n"):
                return
            found = json.loads(text)
            name = found.pop("event", "")
            kind = getattr(events, str(name), None)
            if not (isinstance(kind, type) and issubclass(kind, events.Event)):
                continue
            try:
                yield msgspec.convert(found, kind)
            except msgspec.ValidationError as error:
                raise UsageError(f"{where}:{number}: not a valid {name} event: {error}") from None
    except (ValueError, AttributeError, RecursionError):
        raise UsageError(f"{where}: {NO_EVENTS}") from None
