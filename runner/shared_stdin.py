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

_hidden_fd: int | None = None


def stdin_fd() -> int | None:
    """Return the descriptor from which standard input can be read; None when there is none."""
    if sys.stdin is None or sys.stdin.closed:
        return None
    fd = sys.stdin.fileno()
    return _hidden_fd if fd == 0 and _hidden_fd is not None else fd


@contextlib.contextmanager
def hide_stdin() -> Iterator[None]:
    """Have descriptor 0 lead to /dev/null; `stdin_fd` still knows the other one."""
    global _hidden_fd  # noqa: PLW0603  a fact about the process
    try:
        saved = os.dup(0)
    except OSError:  # it is closed, and nothing can be taken from it
        yield
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _hidden_fd = saved
    try:
        yield
    finally:
        _hidden_fd = None
        os.dup2(saved, 0)
        os.close(saved)
