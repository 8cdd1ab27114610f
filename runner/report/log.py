r"""Log lines: what is printed, each line with the time, the run and who says it, as text or as JSON.

2026-11-29T12:40:13.123+00:00 20261129-124013-1f INFO resize-2 | took 3 s
{"time": "2026-11-29T12:40:13.123+00:00", "run": "20261129-124013-1f", "level": "info", "worker": "resize-2", ...}
"""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from runner.errors import UsageError
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

LOG_FORMATS = ("text", "json")
#: How `Context.log` begins its lines.
_LEVEL = re.compile(rb"(DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_COLOR = re.compile(rb"\x1b\[[0-9;]*m")


@dataclass(slots=True)
class LogWriter:
    """A writer of log lines. `fd` is that of a log file; None: they take the place of what is printed."""

    run: str
    format: Literal["text", "json"] = "text"
    fd: int | None = None
    write_error: str = ""

    def format_lines(self, worker: str, stream: str, lines: Iterable[bytes], level: str = "INFO") -> bytes:
        """Return lines of a worker's; without a worker they are runner's own, and one entry together."""
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        if not worker and self.format == "json":
            lines = [b"".join(lines)]
        return b"".join(self._format_line(now, worker, stream, line.rstrip(b"\n"), level) for line in lines)

    def _format_line(self, now: str, worker: str, stream: str, line: bytes, level: str) -> bytes:
        found = _LEVEL.match(line) if worker and stream == "err" else None
        level = found.group(1).decode() if found else level
        text = _COLOR.sub(b"", line[found.end() :] if found else line).decode("utf-8", "replace")
        if self.format == "text":
            return f"{now} {self.run} {level} {worker or 'runner'} | {text}\n".encode()
        who = {"worker": worker or None, "stream": stream}
        entry = {"time": now, "run": self.run, "level": level.lower(), **who, "text": text}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"

    def append_data(self, data: bytes) -> None:
        """Append to the file; what a disk refuses is remembered, and the run goes on."""
        if self.fd is None or self.write_error:
            return
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError as error:
            self.write_error = f"log file: {error.strerror or error}; the rest of the log is lost"

    def close(self) -> None:
        """Close the file."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def open_log(run: str, format_: str | None, file: str | None) -> LogWriter | None:
    """Open the log that a command line asks for; UsageError when it cannot be."""
    if format_ is None and file is None:
        return None
    if format_ not in (None, *LOG_FORMATS):
        raise UsageError(f"--log-format knows {' and '.join(LOG_FORMATS)}, not {format_[:40]!r}")
    fd = None
    if file is not None:
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:
            raise UsageError(f"--log-file {file}: {getattr(error, 'strerror', None) or error}") from None
    return LogWriter(run, "json" if format_ == "json" else "text", fd)
