"""Standard output for one JSON document and nothing else, whatever plugins and tasks print and wherever they do it."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
    try:
        sys.stdout.flush()
        kept = -1
        if sys.stdout.fileno() == 1:
            kept = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)  # not 2, which may be closed
    except (AttributeError, OSError, ValueError):  # closed, or a stream of a test's
        kept = -1
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

    def write(text: str) -> None:
        view = memoryview(text.encode() + b"\n")
        while view:
            view = view[os.write(kept, view) :]

    return write
