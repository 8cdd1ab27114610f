"""Capture of what thread workers print: text by thread, and what C code and child programs write to descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from runner import forked_copies
from runner.transport import stdio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.report.printer import Printer, WorkerStream

_UNKNOWN = "-"


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer` of a captured stream. Nobody can close it: it belongs to all threads."""

    mode = "wb"

    def __init__(self, capture: ThreadCapture, stream: str, fd: int) -> None:
        super().__init__()
        self._capture, self._stream, self._fd = capture, stream, fd
        self.name = f"<std{stream}>"

    @property
    def raw(self) -> _Bytes:
        """Return the stream itself: nothing is buffered here."""
        return self

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Hand bytes, which need not be text, to the printer, in the name of the worker whose thread this is."""
        taken = bytes(data)
        self._capture.write(taken, self._stream)
        return len(taken)

    def fileno(self) -> int:
        """Return the descriptor that child programs should inherit."""
        return self._fd

    def close(self) -> None:
        """Do nothing: others still print."""


class _Stream(io.TextIOWrapper):
    """Takes the place of sys.stdout or sys.stderr, and knows which worker speaks."""

    mode = "w"

    def __init__(self, capture: ThreadCapture, stream: str, fd: int) -> None:
        raw = _Bytes(capture, stream, fd)
        super().__init__(raw, "utf-8", "backslashreplace", line_buffering=True, write_through=True)
        self._capture, self._stream = capture, stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._capture.write(text, self._stream)
        return len(text)

    def write_data(self, data: bytes) -> None:
        """Print whole lines of data, which no name of a worker may alter."""
        self._capture.printer.write_data(data, self._stream)

    def speaking(self, name: str) -> Any:
        """Have what this thread prints meanwhile bear a name: a context manager, for hooks of plugins."""
        return self._capture.speaking(name)

    def detach(self) -> Any:
        """Return the bytes below, for another wrapper; this one goes on, because others still print."""
        return self.buffer

    def close(self) -> None:
        """Nothing: others still print."""


#: `print` of a thread that goes on when the capture ends uses `sys.stdout` without a reference of its own.
_recent_streams: deque[_Stream] = deque(maxlen=8)


class ThreadCapture:
    """While it is entered, everything that this process's threads and children print goes through the printer."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        #: The name of what no worker has printed: it is the program's, if that goes on beside its run.
        self._unknown = "" if printer.beside_caller else _UNKNOWN
        self._here = threading.local()  # not by number: another thread would inherit a dead one's
        self._names: set[str] = set()
        #: With one thread worker it is clear whose threads and child programs print.
        self._only_name = self._unknown
        self._sources: list[WorkerStream] = []
        self._saved: dict[int, int] = {}
        self._streams: tuple[Any, Any] = (sys.stdout, sys.stderr)

    def name_thread(self, name: str) -> None:
        """Make the current thread a worker of that name."""
        self._here.name = name
        self._names.add(name)
        self._only_name = name if len(self._names) == 1 and self._unknown else self._unknown
        for source in self._sources:
            source.name = self._only_name

    @contextlib.contextmanager
    def speaking(self, name: str) -> Iterator[None]:
        """Have what the current thread prints meanwhile bear a name."""
        before = getattr(self._here, "name", None)
        self._here.name = name
        try:
            yield
        finally:
            self._here.name = before

    def write(self, text: str | bytes, stream: str) -> None:
        """Print in the name of the worker that this thread is; a task's own threads cannot always be told."""
        name: str | None = getattr(self._here, "name", None)
        thread = 0 if name is not None else threading.get_ident()
        self.printer.write(name if name is not None else self._only_name, text, stream, thread)

    def _abandon_in_fork(self) -> None:
        """Print, in a copy that something has forked, where its descriptors lead, line by line."""
        forked_copies.close_descriptors(*self._saved.values())
        own = {"out": stdio.line_text_stream(1), "err": stdio.line_text_stream(2)}
        if isinstance(sys.stdout, _Stream):
            sys.stdout, sys.stderr = own["out"], own["err"]

        def write(text: str | bytes, stream: str) -> None:  # for whatever has kept the other one
            own[stream].write(text if isinstance(text, str) else text.decode("utf-8", "backslashreplace"))

        self.write = write  # type: ignore[method-assign]  # in the copy alone

    def __enter__(self) -> ThreadCapture:
        for held in self._streams:
            with contextlib.suppress(ValueError, OSError, AttributeError):  # None, in a service
                held.flush()
        for fd, stream in ((1, "out"), (2, "err")):
            self._saved[fd] = os.dup(fd)
            read_end, write_end = os.pipe()
            os.dup2(write_end, fd)
            os.close(write_end)
            self._sources.append(self.printer.attach_pipe(self._only_name, read_end, stream))
        self._fork_hook = forked_copies.ForkHook(self._abandon_in_fork)
        stdio.buffer_c_by_line()
        _recent_streams.extend((_Stream(self, "out", 1), _Stream(self, "err", 2)))
        sys.stdout, sys.stderr = _recent_streams[-2], _recent_streams[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self._fork_hook.close()
        sys.stdout, sys.stderr = self._streams
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # what C code has printed and still holds
        for fd, saved in self._saved.items():
            os.dup2(saved, fd)
            os.close(saved)
        for source in self._sources:
            source.finish()
        for name in self._names:
            self.printer.finish_name(name)
