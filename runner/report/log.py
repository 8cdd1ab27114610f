r"""What tasks print, as whole lines: with the worker's name in front, or as log lines, which have time and run as well.

2026-11-29T12:40:13.123+00:00 20261129-124013-1f INFO resize-2 | took 3 s
{"time": "2026-11-29T12:40:13.123+00:00", "run": "20261129-124013-1f", "level": "info", "worker": "resize-2", ...}
"""

from __future__ import annotations

import json
import os
import re
import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from runner.errors import UsageError
from runner.store.run_folders import write_all
from runner.structs import dataclass
from runner.text import printable_line, printable_text

if TYPE_CHECKING:
    from collections.abc import Iterable

LOG_FORMATS = ("text", "json")
#: How `Context.log` begins its lines.
_LEVEL = re.compile(rb"(DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_COLOR = re.compile(rb"\x1b\[[0-9;]*m")
_MOST_LINE = 1 << 16
#: Everything that a terminal would act on, apart from colours (`ESC [ ... m`) and tabs.
_CONTROL = re.compile(
    rb"\x1b\[[0-9;]*m|(\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.?|[\x00-\x08\x0b-\x1f\x7f])"
)
#: Beyond ASCII: control characters, line separators, overrides of the direction of writing, and what takes no room
#: outside of scripts that are written with it.
_STEERS = re.compile("[\x80-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff]")
_RESET = b"\x1b[0m"
_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class LineSplitter:
    r"""Cuts a stream into lines; what is not finished yet waits. Memory is bounded: a line over 64 KiB comes in parts.

    >>> splitter = LineSplitter(); splitter.feed(b"one\ntw"), splitter.feed(b"o"), splitter.finish()
    ([b'one\n'], [], [b'two\n'])
    """

    def __init__(self, *, raw: bool = False, terminal: bool = False) -> None:
        self._raw = raw
        self._clean = terminal_safe if terminal else strip_controls
        #: An unfinished last line.
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now."""
        if self._raw:
            return [data]
        *lines, self.rest = (self.rest + data).split(b"\n")
        whole = [self._clean(line) + b"\n" for line in lines]
        while len(self.rest) > _MOST_LINE:
            ends = range(_MOST_LINE, _MOST_LINE - 4, -1)  # where no UTF-8 character is torn
            cut = next((end for end in ends if self.rest[end] & 0xC0 != 0x80), _MOST_LINE)
            whole.append(self._clean(self.rest[:cut]) + b"\n")
            self.rest = self.rest[cut:]
        return whole

    def finish(self) -> list[bytes]:
        """Return the unfinished last line, finished."""
        rest, self.rest = self.rest, b""
        return [self._clean(rest) + b"\n"] if rest else []


def strip_controls(line: bytes) -> bytes:
    r"""Return a line without control sequences other than colours; of a progress bar only its last state.

    >>> strip_controls(b"10%\r20%\r\x1b[2K30%"), strip_controls(b"\x1b[31mred\x1b[0m")
    (b'30%', b'\x1b[31mred\x1b[0m')
    """
    if line.isascii() and line.isalnum():
        return line
    states = line.rstrip(b"\r").rsplit(b"\r", 1)
    return _CONTROL.sub(lambda found: b"" if found.group(1) else found.group(0), states[-1])


def terminal_safe(line: bytes) -> bytes:
    r"""Return a line for a terminal: also without what steers it beyond ASCII, and with its colours ended.

    >>> terminal_safe(b"\xc2\x9b2Ja\x9b"), terminal_safe("\u202egnp".encode()), terminal_safe(b"\x1b[31mred")
    (b'\\x9b2Ja\\x9b', b'\\u202egnp', b'\x1b[31mred\x1b[0m')
    """
    line = strip_controls(line)
    if not line.isascii():
        line = _STEERS.sub(lambda found: printable_text(found[0]), line.decode("utf-8", "backslashreplace")).encode()
    return line if b"\x1b" not in line or line.endswith(_RESET) else line + _RESET


def worker_prefix(name: str, *, color: bool = False) -> bytes:
    """Return what stands before each line of a worker; its colour depends on its name alone.

    >>> worker_prefix("pa")
    b'pa | '
    """
    name = printable_line(name)
    mark = f"{name} | ".encode()
    if not color:
        return mark
    code = _COLORS[zlib.crc32(name.encode()) % len(_COLORS)]
    return b"\x1b[%dm%s\x1b[0m" % (code, mark)


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
            write_all(self.fd, data)
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
