"""The sink of commands' reports: what they have written, command by command, and a log of jobs as GNU Parallel's."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from runner.posix_only import O_CLOEXEC
from runner.std.targets import StreamTarget, printable_path
from runner.tasks import Context, task

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_FLAGS = os.O_WRONLY | os.O_CREAT | O_CLOEXEC | os.O_APPEND
#: Characters that would end a line of the log, or a column.
_ESCAPES = {ord(char): repr(char)[1:-1] for char in "\n\r\t"}


@task(name="write_output", mode="thread")
class WriteOutput:
    """Write what commands have written (`gives = "report"` of `shell`) to standard output and standard error.

    The output of each command is in one piece, byte for byte. With `tag` each line has the item's values and a tab in
    front. `joblog` is a file with a line for each command, written as they end, with the columns of GNU Parallel's
    `--joblog`: Exitval is -1 for a command that was killed, Command is quoted for a shell.
    """

    def __init__(self, *, joblog: str = "", tag: bool = False, context: Context | None = None) -> None:
        self._joblog, self._tag, self._context = joblog, tag, context
        self._log_fd, self._log_size = -1, 0
        self._streams = {"out": StreamTarget("stdout"), "err": StreamTarget("stderr")}

    def __enter__(self) -> WriteOutput:
        if self._joblog:
            place = getattr(self._context, "saved", None)
            goes_on = place is not None or bool(getattr(self._context, "retried_run", ""))
            try:
                self._log_fd = os.open(self._joblog, _FLAGS if goes_on else _FLAGS | os.O_TRUNC, 0o666)
                if place is not None:
                    with contextlib.suppress(OSError):  # a pipe, a device
                        os.ftruncate(self._log_fd, place["length"])
                self._log_size = os.fstat(self._log_fd).st_size
                if not self._log_size:
                    self._append_to_log(_HEADER.encode())
            except OSError as error:
                self.__exit__()
                raise OSError(error.errno, f"{printable_path(self._joblog)}: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        fd, self._log_fd = self._log_fd, -1
        if fd >= 0:
            os.close(fd)

    def save(self) -> dict[str, int] | None:
        """Return where the log ends now; the next process cuts off what comes after that."""
        return {"length": self._log_size} if self._log_fd >= 0 else None

    def __call__(self, report: dict[str, Any]) -> None:
        """Write what one command has written."""
        for name, stream in self._streams.items():
            if data := report[name]:
                stream.write(tag_lines(data, report["item"]) if self._tag else data)
        if self._log_fd >= 0:
            self._append_to_log(log_line(report))

    def _append_to_log(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._log_fd, view) :]
        self._log_size += len(data)


def tag_lines(data: bytes, item: Any) -> bytes:
    r"""Return lines with the item's values in front of each.

    >>> tag_lines(b"one\ntwo", (7, "a", "b"))
    b'a b\tone\na b\ttwo'
    """
    values = item[1:] if isinstance(item, tuple) else [item]
    mark = os.fsencode(" ".join(map(str, values)).translate(_ESCAPES)) + b"\t"
    lines = data.split(b"\n")
    return b"".join([mark + line + b"\n" for line in lines[:-1]] + [mark + lines[-1]] * bool(lines[-1]))


def log_line(report: Mapping[str, Any]) -> bytes:
    r"""Return a command's line of the log.

    >>> ended = {"code": -9, "out": b"hi", "start": 1.5, "seconds": 0.25}
    >>> log_line({"item": (3, "a"), "command": ["echo", "a b"], **ended})
    b"3\t:\t1.500\t0.250\t0\t2\t-1\t9\techo 'a b'\n"
    """
    import shlex

    item, code = report["item"], report["code"]
    number = item[0] if isinstance(item, tuple) and item else 0
    code, signal = (code, 0) if code >= 0 else (-1, -code)
    command = shlex.join(report["command"]).translate(_ESCAPES)
    times = f"{report['start']:.3f}\t{report['seconds']:.3f}"
    return os.fsencode(f"{number}\t:\t{times}\t0\t{len(report['out'])}\t{code}\t{signal}\t{command}\n")
