"""Standard output for one JSON document and nothing else, whatever plugins and tasks print and wherever they do it."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def claimed() -> Callable[[str], None]:
    """From now on what goes to standard output goes to standard error; return what writes the document.

    Descriptor 1 itself is moved: banners of C libraries, child programs and streams that were taken at import follow.
    It stays so until this process ends, because some print at its very end.
    """
    try:
        real = sys.stdout.fileno() == 1
        sys.stdout.flush()
        kept = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)  # not 2, which may be closed
    except (AttributeError, OSError, ValueError):  # closed, or a stream of a test's
        real = False
    if not real:
        stream = sys.stdout
        return lambda text: print(text, file=stream, flush=True)
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def write(text: str) -> None:
        view = memoryview(text.encode() + b"\n")
        while view:
            view = view[os.write(kept, view) :]

    return write
