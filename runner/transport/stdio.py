"""A process worker's standard streams: pipes to the printer, flushed line by line, so that a death loses nothing."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

_C_BUFFER_BYTES = 1 << 16
_LINE_BUFFERED = 1  # _IOLBF of stdio.h, the same number in glibc, musl and Apple's libc


def redirect_worker_streams(out_fd: int | None, err_fd: int | None) -> None:
    """Make the given pipe ends this process's standard output and error; None leaves a stream where it is."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as the process
    for number, fd, name in ((1, out_fd, "stdout"), (2, err_fd, "stderr")):
        if fd is not None:
            os.dup2(fd, number)
            os.close(fd)
        setattr(sys, name, line_text_stream(number))
    buffer_c_by_line()


def line_text_stream(fd: int) -> io.TextIOWrapper:
    """Open a text stream over a descriptor, flushed line by line."""
    raw = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115  it lives as long as the process
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _c_library() -> Any:
    """Return C's library if ctypes is loaded: the fork server has it, and a spawned worker need not pay for it."""
    with contextlib.suppress(OSError, AttributeError, KeyError):
        return sys.modules["ctypes"].CDLL(None)
    return None


def buffer_c_by_line() -> None:
    """Have C's standard output written line by line, as on a terminal; when ctypes is loaded.

    With a buffer of its own: under PYTHONUNBUFFERED it has one of a single byte, and another writer tears its lines.
    """
    libc = _c_library()
    if libc is not None:
        with contextlib.suppress(ValueError, AttributeError):
            ctypes = sys.modules["ctypes"]
            libc.malloc.restype = ctypes.c_void_p
            # Never freed: C writes from it after Python has ended.
            buffer = ctypes.c_void_p(libc.malloc(_C_BUFFER_BYTES))
            size = ctypes.c_size_t(_C_BUFFER_BYTES if buffer else 0)
            libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), buffer, _LINE_BUFFERED, size)


def _redirect_to_null(stream: Any) -> None:
    """Drop what the stream holds, and all that is written to it from now on."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def flush_standard_streams() -> None:
    """Write out what Python and C still hold; neither this nor a later flush raises."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, AttributeError):
            try:
                stream.flush()
            except OSError:  # there is no reader any more, or the disk is full
                _redirect_to_null(stream)
    libc = _c_library()
    if libc is not None:
        with contextlib.suppress(AttributeError, OSError):
            libc.fflush(None)
