"""The command's standard streams, whatever it was started with: closed, of another encoding, on a full disk."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Literal

from runner.fleets import conditions

if TYPE_CHECKING:
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


def open_all() -> None:
    """Have all three, with an encoding that takes every letter; called before anything is imported that opens files."""
    conditions.fill_standard_descriptors()
    codecs.register_error(_HANDLER, _plainly)
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _stream(fd: int, mode: Literal["r", "w"]) -> TextIO:
    return open(fd, mode, encoding="utf-8", closefd=False)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""An error handler of codecs: letters that look alike, or escapes.

    >>> codecs.register_error(_HANDLER, _plainly)
    >>> "┌─▶ 5 µs é".encode("ascii", _HANDLER)
    b'+-> 5 us \\xe9'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = "".join(_PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters)
    return shown, error.end


def encode(text: str, stream: TextIO) -> bytes:
    """Text as the bytes that a standard stream would write."""
    return text.encode(getattr(stream, "encoding", None) or "utf-8", _HANDLER)


def flush() -> str:
    """Write out what the streams hold; what was lost, although somebody may have wanted to read it, else nothing."""
    lost = ""
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if not (isinstance(error, BrokenPipeError) or lost):
                lost = f"{name}: {getattr(error, 'strerror', None) or error}; output is lost"
            discard(stream)
    return lost


def discard(stream: TextIO) -> None:
    """From now on what is written to the stream goes nowhere, so that the interpreter's end does not fail."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
