"""Standard input while thread workers are there: for the one source that reads it, and for nothing that a task starts.

Threads share this process's descriptors, and a program that one of them starts inherits descriptor 0: `ssh`, `ffmpeg`
or `docker exec -i` would take what `std.lines` is to read. So 0 is /dev/null meanwhile, as it is in process workers.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_kept: int | None = None


def stdin_fd() -> int | None:
    """Where standard input can be read; None when there is none."""
    if sys.stdin is None or sys.stdin.closed:
        return None
    fd = sys.stdin.fileno()
    return _kept if fd == 0 and _kept is not None else fd


@contextlib.contextmanager
def hide_stdin() -> Iterator[None]:
    """Have descriptor 0 lead to /dev/null; `descriptor` still knows the other one."""
    global _kept  # noqa: PLW0603  a fact about the process
    try:
        kept = os.dup(0)
    except OSError:  # it is closed, and nothing can be taken from it
        yield
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _kept = kept
    try:
        yield
    finally:
        _kept = None
        os.dup2(kept, 0)
        os.close(kept)
