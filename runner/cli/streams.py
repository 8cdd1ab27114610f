"""The command's standard streams, whatever it was started with: closed, of another encoding, on a full disk."""

from __future__ import annotations

import codecs
import contextlib
import io
import select
import sys
from typing import TYPE_CHECKING, Any

from runner.engines import process_setup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

#: What is shown for a letter that the output's encoding does not have; every other one as an escape.
_PLAIN = {
    **dict.fromkeys("─┄", "-"),
    **dict.fromkeys("│┆", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("█▉▊▋▌▍▎▏", "#"),
    "▶": ">",
    "◀": "<",
    "▲": "^",
    "▼": "v",
    "→": "->",
    "·": ".",
    "–": "-",
    "…": "...",
    "µ": "u",
    "×": "x",
}
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
    raws = [raw for stream in (sys.stdout, sys.stderr) if isinstance(raw := _raw_stream(stream), _LenientOutput)]
    try:
        for raw in raws:
            raw.strict = True
        yield
    finally:
        for raw in raws:
            raw.strict = False


def _raw_stream(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


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
    >>> "┌─▶ 5 µs é".encode("ascii", _HANDLER)
    b'+-> 5 us \\xe9'
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
        if isinstance(raw := _raw_stream(stream), _LenientOutput) and raw.trouble:
            told = told or f"{name}: {raw.trouble}"
            raw.trouble = ""
    return told
