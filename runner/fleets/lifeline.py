"""The lifeline: when runner dies, however it dies, the kernel kills its workers and their children.

One pipe per worker, used for nothing else; runner holds the write end and never writes. In the worker, signal-driven
I/O on the read end sends SIGKILL to the worker's process group once the last writer is gone: enforced by the kernel,
also while C code holds the GIL (fcntl(2), F_SETSIG and F_SETOWN). PR_SET_PDEATHSIG would be tied to the thread that
forked, and under a fork server to the server. Elsewhere than Linux a thread waits on the pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import threading


def arm(read_end: int) -> None:
    """Tie this process and its group to the pipe; call it after `setpgid`."""
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(read_end, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=_wait, args=(read_end,), name="runner-lifeline", daemon=True).start()
    # Runner may have died before this was armed.
    if select.select([read_end], [], [], 0)[0]:
        _end()


def _wait(read_end: int) -> None:
    with contextlib.suppress(OSError):
        os.read(read_end, 1)
    _end()


def _end() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)
