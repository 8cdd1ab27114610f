"""The command's standard streams, whatever it was started with: closed, of another encoding, on a full disk.

Foreign text reaches a terminal only as `printable_text` shows it, so that no command can forget it. What is not ours
(the output of tasks, commands of plugins) goes past it, and so does the one JSON document of a program's reader.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any

from runner.engines import process_setup
from runner.text import printable_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

#: What is shown for a letter that the output's encoding does not have; every other one as an escape.
_PLAIN = {**dict.fromkeys("█▉▊▋▌▍▎▏", "#"), "→": "->", "–": "-", "…": "...", "µ": "u", "×": "x"}
_HANDLER = "runner.plain"


class _LenientOutput(io.FileIO):
    """A standard output that takes everything: what it could not write is told at the end, by the exit code as well.

    So a command goes on to its own end, and its own exit code, when the reader of its output has left. What the
    functions of a task print themselves (`strict`) fails as in any program.
    """

    trouble = ""
    strict = False
    _broken = False

    def write(self, data: Any) -> int:
        """Write some of it; all of it goes nowhere once that has failed."""
        while not self._broken:
            try:
                wrote: int | None = super().write(data)
            except OSError as error:
                if self.strict:
                    raise
                self._broken = True
                self.trouble = "" if isinstance(error, BrokenPipeError) else error.strerror or type(error).__name__
            else:
                if wrote is not None:
                    return wrote
                select.select([], [self], [])  # another program has made it non-blocking
        return memoryview(data).nbytes


@contextlib.contextmanager
def strict_output() -> Iterator[None]:
    """While it is entered, a write that fails raises, as functions that print expect it."""
    _LenientOutput.strict = True
    try:
        yield
    finally:
        _LenientOutput.strict = False


def open_standard_streams() -> None:
    """Have all three, with an encoding that takes every letter; called before anything is imported that opens files."""
    process_setup.fill_standard_descriptors()
    codecs.register_error(_HANDLER, _replace_letters)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as the process
    sys.stdout, sys.stderr = _open_output(1, sys.stdout), _open_output(2, sys.stderr)


def _open_output(fd: int, before: TextIO | None) -> TextIO:
    encoding = "utf-8" if before is None else before.encoding
    raw = _LenientOutput(fd, "w", closefd=False)
    # Under PYTHONUNBUFFERED there is no buffer.
    buffered: Any = raw if isinstance(getattr(before, "buffer", None), io.RawIOBase) else io.BufferedWriter(raw)
    lines, at_once = (getattr(before, name, False) for name in ("line_buffering", "write_through"))
    return io.TextIOWrapper(buffered, encoding, _HANDLER, line_buffering=lines, write_through=at_once)


def _replace_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Return an error handler of codecs: letters that look alike, or escapes.

    >>> codecs.register_error(_HANDLER, _replace_letters)
    >>> "→ 5 µs é".encode("ascii", _HANDLER)
    b'-> 5 us \\xe9'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = "".join(_PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters)
    return shown, error.end


def take_output_error() -> str:
    """Write out what the streams hold; what could not be written since this was last asked, but for a closed pipe."""
    told = ""
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            stream.flush()
        buffer = getattr(stream, "buffer", None)
        if isinstance(raw := getattr(buffer, "raw", buffer), _LenientOutput) and raw.trouble:
            told = told or f"{name}: {raw.trouble}"
            raw.trouble = ""
    return told


class _SafeStream:
    """Takes the place of a text stream, and makes harmless what is written to it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable_text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def escaped_output(escaped: bool = True) -> Iterator[None]:
    """While it is entered, what is printed is harmless; if not `escaped`, it is not ours, and stays as it is."""
    before = sys.stdout, sys.stderr
    plain = [stream.stream if isinstance(stream, _SafeStream) else stream for stream in before]
    out, err = [_SafeStream(stream) if escaped and stream is not None else stream for stream in plain]
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


_kept: list[int] = []


def restore_stdout() -> None:
    """Have standard output where it was before it was claimed."""
    while _kept:
        fd = _kept.pop()
        sys.stdout.flush()
        os.dup2(fd, 1)
        os.close(fd)


def claim_stdout() -> Callable[[str], None]:
    """From now on what goes to standard output goes to standard error; return what writes the document.

    Descriptor 1 itself is moved: banners of C libraries, child programs and streams that were taken at import follow.
    It stays so until this process ends, because some print at its very end; a caller that goes on calls
    `restore_stdout`.
    """
    kept = -1
    with contextlib.suppress(AttributeError, OSError, ValueError, ImportError):  # closed, or a stream of a test's
        sys.stdout.flush()
        if sys.stdout.fileno() == 1:
            import fcntl  # not on Windows

            kept = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)  # not 2, which may be closed
    if kept < 0:
        stream = sys.stdout
        return lambda text: print(text, file=stream, flush=True)
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    _kept.append(kept)

    from runner.store.run_folders import write_all

    return lambda text: write_all(kept, text.encode() + b"\n")
