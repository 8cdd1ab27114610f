"""The printer: what tasks print reaches the terminal through it, line by line, whole, with its worker's name.

    process workers ── pipes ──▶ ┐
    workers elsewhere ── feed ─▶ ┤
    thread workers ── write ───▶ ├ one thread ──▶ standard output and error
    runner's own messages ─────▶ ┘

Only the printer's thread writes, so it may block on a slow reader without holding up the supervisor: the pipes fill,
and whoever prints waits, as on any pipe. A closed or full output is remembered in `write_error` and drained for ever
after, so that nobody waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import signal
import threading
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from runner import forked_copies
from runner.report.log import LineSplitter, worker_prefix
from runner.report.panel import TerminalPanel
from runner.secret_masks import SecretMask
from runner.text import printable_text
from runner.transport.linux_only import is_pipe_full

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.report.log import LogWriter
    from runner.report.panel import DrawFrame

_READ = 1 << 16
_MOST_PENDING = 1 << 20
_TAIL_BYTES, _TAIL_LINES = 2048, 20
_DRAIN_ROUNDS = 64
#: Bytes in one write, and when it matters whether somebody reads at all.
_MOST_PIECE, _PIECE = 1 << 20, 4096
#: Nobody has read anything for so many seconds: nobody will.
_STUCK = 2.0


class _Left(Exception):
    """Another thread does what is left to do."""


class WorkerStream:
    """One stream of one process worker."""

    def __init__(self, printer: Printer, name: str, fd: int, stream: str) -> None:
        self.name, self.fd, self.stream = name, fd, stream
        self.splitter = printer.create_splitter(stream)
        self._printer = printer

    def full(self) -> bool:
        """Return True if its worker waits, because the printer does not read."""
        return is_pipe_full(self.fd)

    def finish(self) -> None:
        """Print what a dead worker has left in the pipe, and close it. Returns at once."""
        self._printer.run_on_thread(lambda: self._printer.drain_stream(self))


class Printer:
    """Owns all writing to standard output and error (`out_fd`, `err_fd`), in a thread of its own."""

    def __init__(
        self,
        out_fd: int,
        err_fd: int,
        *,
        log: str = "prefix",
        color: bool = False,
        mask: SecretMask | None = None,
        lines: LogWriter | None = None,
    ) -> None:
        #: The program goes on beside its run: what no worker has printed is the program's.
        self.beside_caller = False
        self.is_raw = log == "raw"
        self.color = color
        self._mask = mask or SecretMask()
        self._log = lines
        self.write_error = ""
        #: Output was lost that somebody still wanted to read: a full disk, not a reader who has gone.
        self.has_lost_output = False
        self._fds = {"out": os.dup(out_fd), "err": os.dup(err_fd)}
        self._terminals = {stream: os.isatty(fd) for stream, fd in self._fds.items()}
        #: Why nothing more is written to a stream, and how many lines were lost since.
        self._broken: dict[str, tuple[str, int]] = {}
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector.register(self._reader, selectors.EVENT_READ, None)
        self._room = threading.Condition()
        self._actions: deque[tuple[Callable[[], object], int]] = deque()
        self._pending = 0
        self._splitters: dict[tuple[str, int, str], LineSplitter] = {}
        self._tails: dict[str, deque[bytes]] = {}
        self._closing = False
        #: How far the thread is, for those who wait for it: bytes written, and what it is writing just now.
        self._written = 0
        self._at_hand: tuple[str, bytes | memoryview] = "", b""
        self._given_up = False
        #: From when on it matters whether somebody goes on reading.
        self._hurry = inf
        #: The signal that has ended the waiting for a reader.
        self.interrupt_signal = 0
        self._panel: TerminalPanel | None = None
        self._fork_hook = forked_copies.ForkHook(self.abandon_in_fork)
        #: What is to be printed above the panel, and whether what goes to a stream appears where the panel is.
        self._above: list[bytes] = []
        self._beside = {"err": True, "out": os.path.sameopenfile(out_fd, err_fd)}
        self._thread = threading.Thread(target=self._run_thread, name="runner-printer", daemon=True)
        self._thread.start()

    def abandon_in_fork(self) -> None:
        """Let go of the outputs in a copy that something has forked: it has no thread that prints."""
        forked_copies.close_descriptors(self._reader, self._writer, *self._fds.values())
        self._selector.close()
        self.run_on_thread = lambda *_, **__: None  # type: ignore[method-assign]  # in the copy alone

    def attach_pipe(self, name: str, fd: int, stream: str) -> WorkerStream:
        """Print what arrives in a pipe, whose read end is the printer's from now on."""
        os.set_blocking(fd, False)
        source = WorkerStream(self, name, fd, stream)
        self.run_on_thread(lambda: self._selector.register(fd, selectors.EVENT_READ, source))
        return source

    def create_splitter(self, stream: str) -> LineSplitter:
        """Make what cuts one worker's output into lines."""
        return LineSplitter(raw=self.is_raw, terminal=self._terminals[stream])

    def write(self, name: str, text: str | bytes, stream: str, thread: int = 0) -> None:
        """Print text of a thread worker; waits when a slow reader has let a megabyte pile up.

        `thread` tells apart who else writes in the same name, so that nobody tears another's lines.
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
        key = (name, thread, stream)
        self.run_on_thread(lambda: self._feed_text(key, data), len(data), wait=True)

    def feed(self, name: str, data: bytes, stream: str, on_printed: Callable[[], object]) -> None:
        """Print output of a worker elsewhere; never waits, and calls `on_printed` in the printer's thread."""

        def deed() -> None:
            self._feed_text((name, 0, stream), data)
            on_printed()

        self.run_on_thread(deed, len(data))

    def write_data(self, data: bytes, stream: str) -> None:
        """Print whole lines as they are; waits like `write`."""
        self.run_on_thread(lambda: self._emit_data(stream, data), len(data), wait=True)

    def finish_name(self, name: str) -> None:
        """Print the unfinished last lines of a thread worker that has ended."""
        self.run_on_thread(lambda: self._finish_name(name))

    def print_message(self, text: str, level: str = "INFO") -> None:
        """Print a line of runner's own on standard error, made safe for a terminal. `level`: of log lines."""
        lines = f"{printable_text(self._mask(text))}\n".encode().splitlines(keepends=True)
        self.run_on_thread(lambda: self._print_lines("", "err", lines, level))

    def show_panel(self, frame: DrawFrame | None) -> None:
        """Keep a frame below all that is printed, on standard error, which is a terminal; None: no longer."""
        # The descriptor of our own: what threads print is captured where the program's is.
        panel = None if frame is None else TerminalPanel(frame, self._fds["err"])
        self.run_on_thread(lambda: self._set_panel(panel))

    def last_output(self, name: str) -> str:
        """Return the last lines that a worker printed, about 2 KiB."""
        return b"".join(self._tails.get(name, ()))[-_TAIL_BYTES:].decode("utf-8", "replace")

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything handed over so far, or waiting in a pipe, is written."""
        done = threading.Event()

        def drain() -> None:
            for source in self._open_sources():
                self._read_all(source)
            self._print_above_panel()
            done.set()

        self.run_on_thread(drain)
        return done.wait(timeout)

    def wait_until_written(self, patience: float | None = None) -> None:
        """Wait until all that was handed over is written: as long as that takes, for a slow reader loses nothing.

        `patience`: after so many seconds (the deadline, or 0 when the run was cut short) only while somebody goes on
        reading. A KeyboardInterrupt ends it in any case. What is not written then is lost, and `write_error` says so.
        """
        self._hurry_after(patience)
        done = threading.Event()
        self.run_on_thread(done.set)
        self._wait_for_thread(done.wait, done.is_set)

    def _wait_for_thread(self, wait: Callable[[float | None], Any], is_over: Callable[[], bool]) -> None:
        try:
            while not (self._given_up or is_over()):
                before = self._written
                left = self._hurry - time.monotonic()
                wait(None if left == inf else max(_STUCK, left))
                if left <= 0 and self._written == before and not is_over():
                    self._give_up("its reader has stopped reading")
        except KeyboardInterrupt as end:
            self.interrupt_signal = getattr(end, "number", signal.SIGINT)
            self._give_up("it was not read in time, and a signal ended the waiting")

    def _hurry_after(self, seconds: float | None) -> None:
        if seconds is not None:
            self._hurry = min(self._hurry, time.monotonic() + seconds)

    def _give_up(self, why: str) -> None:
        """Do what is left to do in place of the thread, which is stuck in a write, without that output."""
        self._given_up = True
        stream, rest = self._at_hand
        for each, fd in self._fds.items():
            if each == stream or not _is_writable(fd):
                self.has_lost_output = True
                self._lose_lines(each, rest if each == stream else b"", why)
        self._finish_output()

    def close(self, patience: float | None = None) -> None:
        """Write what there is, as `wait_until_written` does, and end the thread."""
        self._hurry_after(patience)
        with self._room:
            self._closing = True
            self._room.notify_all()
        if self._given_up:
            self._run_actions()
            return
        self._wake_thread()
        self._wait_for_thread(self._thread.join, lambda: not self._thread.is_alive())
        if not self._thread.is_alive() and self._fds:
            self._close_descriptors()

    def run_on_thread(self, deed: Callable[[], object], size: int = 0, *, wait: bool = False) -> None:
        """Have the printer's thread do something."""
        with self._room:
            if wait and threading.current_thread() is not self._thread:
                self._room.wait_for(lambda: self._pending < _MOST_PENDING or self._closing)
            self._pending += size
            self._actions.append((deed, size))
        if self._given_up:
            self._run_actions()
        self._wake_thread()

    def _wake_thread(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writer, b"\0")

    def _run_thread(self) -> None:
        with contextlib.suppress(_Left):
            while not self._given_up:
                self._run_actions()
                if self._closing and not self._actions:
                    self._finish_output()
                    return
                for key, _ in self._selector.select(self._draw_panel()):
                    if key.data is not None:
                        self._read_once(key.data)
                        continue
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._reader, 4096)

    def _finish_output(self) -> None:
        self._run_actions()
        for source in self._open_sources():
            self.drain_stream(source)
        self._set_panel(None)
        for name in {name for name, _, _ in self._splitters}:
            self._finish_name(name)

    def _run_actions(self) -> None:
        while self._actions:
            deed, size = self._actions.popleft()
            deed()
            if size:
                with self._room:
                    self._pending -= size
                    self._room.notify_all()

    def _read_once(self, source: WorkerStream) -> bool:
        """Read once; False when nothing more can come now."""
        try:
            data = os.read(source.fd, _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._print_lines(source.name, source.stream, source.splitter.feed(data))
        else:
            self._close_source(source)
        return bool(data)

    def _read_all(self, source: WorkerStream) -> None:
        # Bounded: a child that was left behind and prints for ever must not hold up the end.
        for _ in range(_DRAIN_ROUNDS):
            if not self._read_once(source):
                return

    def drain_stream(self, source: WorkerStream) -> None:
        """Read what is there and close, although somebody may still hold the other end."""
        self._read_all(source)
        self._close_source(source)

    def _close_source(self, source: WorkerStream) -> None:
        if source.fd < 0:
            return
        self._print_lines(source.name, source.stream, source.splitter.finish())
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source.fd)
        os.close(source.fd)
        source.fd = -1

    def _open_sources(self) -> list[WorkerStream]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _feed_text(self, key: tuple[str, int, str], data: bytes) -> None:
        if (splitter := self._splitters.get(key)) is None:
            splitter = self._splitters[key] = self.create_splitter(key[2])
        self._print_lines(key[0], key[2], splitter.feed(data))
        if not splitter.rest:
            del self._splitters[key]

    def _finish_name(self, name: str) -> None:
        for key in [key for key in self._splitters if key[0] == name]:
            self._print_lines(name, key[2], self._splitters.pop(key).finish())

    def _print_lines(self, name: str, stream: str, lines: list[bytes], level: str = "INFO") -> None:
        """Print whole lines of a worker, or, without a name, of runner's own."""
        if not lines:
            return
        if name:
            if self._mask and not self.is_raw:
                lines = [self._mask.mask_bytes(line) for line in lines]
            tail = self._tails.setdefault(name, deque(maxlen=_TAIL_LINES))
            tail.extend(line[-_TAIL_BYTES:] for line in lines[-_TAIL_LINES:])
        if self._log is not None:
            entries = self._log.format_lines(name, stream, lines, level)
            if self._log.fd is None:  # log lines take the place of what is printed
                self._emit_data(stream, entries)
                return
            self._log.append_data(entries)
            self.write_error = self.write_error or self._log.write_error
        mark = worker_prefix(name, color=self.color) if name and not self.is_raw else b""
        self._emit_data(stream, b"".join(mark + line for line in lines))

    def _set_panel(self, panel: TerminalPanel | None) -> None:
        self._print_above_panel()
        if self._panel is not None:
            self._write_stream("err", self._panel.erase_sequence())
        self._panel = panel

    def _draw_panel(self) -> float | None:
        """Draw the panel when it is time; return how long there is nothing to draw."""
        if self._panel is None:
            return None
        self._print_above_panel()
        if not self._panel.seconds_until_draw():
            self._write_stream("err", self._panel.draw_sequence())
        return self._panel.seconds_until_draw()

    def _emit_data(self, stream: str, data: bytes) -> None:
        if self._panel is None or not self._beside[stream]:
            self._write_stream(stream, data)
        else:  # together with what else is there to be printed now
            self._above.append(data)

    def _print_above_panel(self) -> None:
        if self._above:
            data = b"".join(self._above)
            self._above.clear()
            self._write_stream("err", data if self._panel is None else self._panel.insert_above(data))

    def _write_stream(self, stream: str, data: bytes) -> None:
        if stream in self._broken:
            self._lose_lines(stream, data)
            return
        view = memoryview(data)
        while view:
            try:
                self._at_hand = stream, view
                wrote = os.write(self._fds[stream], view[: _MOST_PIECE if self._hurry == inf else _PIECE])
                self._leave_if_given_up()
                view = view[wrote:]
                self._written += wrote
            except BlockingIOError:  # somebody made the terminal non-blocking
                _is_writable(self._fds[stream], 1000)
            except OSError as error:
                self._leave_if_given_up()
                self.has_lost_output = self.has_lost_output or error.errno != errno.EPIPE
                self._lose_lines(stream, view, error.strerror or type(error).__name__)
                break
        self._at_hand = "", b""

    def _leave_if_given_up(self) -> None:
        """End the thread if it was stuck for so long that another one has gone on with its work."""
        if self._given_up and threading.current_thread() is self._thread:
            raise _Left

    def _lose_lines(self, stream: str, data: bytes | memoryview, why: str = "") -> None:
        """Count what cannot be written; `why`: from now on nothing can."""
        why, lost = self._broken.get(stream, (why, 0))
        self._broken[stream] = why, lost + bytes(data).count(b"\n")
        word = {"out": "standard output", "err": "standard error"}[stream]
        if data:
            self.write_error = f"{word}: {why}; {self._broken[stream][1]:,} lines lost"

    def _close_descriptors(self) -> None:
        self._selector.close()
        self._fork_hook.close()
        if self._log is not None:
            self._log.close()
        for fd in (self._reader, self._writer, *self._fds.values()):
            os.close(fd)
        self._fds.clear()


def _is_writable(fd: int, milliseconds: int = 0) -> bool:
    look = select.poll()
    look.register(fd, select.POLLOUT)
    return bool(look.poll(milliseconds))
